//! What a PTX file says, as parsed: functions, variables, statements with their operands.

use std::collections::HashMap;

/// Which of the three register files a register is in. Registers of 8, 16 and 32 bits share one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Predicate,
    Narrow,
    Wide,
}

/// A register of a function, numbered in the order of declaration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Register {
    pub class: Class,
    pub index: u32,
}

/// An operand (PTX ISA, "Instruction Operands").
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Operand {
    Register(Register),
    /// `!p`
    Not(Register),
    /// `%tid.x` and its like.
    Special(String),
    Integer(u64),
    /// `0f3F800000`
    Single(u32),
    /// `0d3FF0000000000000`, or a number with a point.
    Double(u64),
    Symbol(String, i64),
    /// `[base + offset]`
    Address(Box<Operand>, i64),
    /// `[map, {coordinates}]`
    Tensor(Box<Operand>, Vec<Operand>),
    Vector(Vec<Operand>),
    /// `d|p`
    Pair(Box<Operand>, Box<Operand>),
    /// `(a, b)` of a call.
    List(Vec<Operand>),
    /// `_`
    Sink,
}

/// `@p` or `@!p` in front of an instruction.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Guard {
    pub register: Register,
    pub negated: bool,
}

/// An instruction of a function's body.
#[derive(Clone, Debug)]
pub(crate) struct Statement {
    pub opcode: String,
    pub operands: Vec<Operand>,
    pub guard: Option<Guard>,
    /// In the PTX text, from 1.
    pub line: u32,
    /// Index in the module's locations, 0 where there is none.
    pub location: u32,
    /// Statement numbers that a branch may go to.
    pub targets: Vec<usize>,
}

/// State spaces of variables (PTX ISA, "State Spaces").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Space {
    #[default]
    Generic,
    Global,
    Shared,
    Param,
    Local,
}

/// A variable or a parameter.
#[derive(Clone, Debug, Default)]
pub(crate) struct Variable {
    pub name: String,
    /// As declared: `.b32`, `.u64`, ...
    pub kind: String,
    pub align: usize,
    /// Bytes.
    pub size: usize,
    pub initial: Vec<u8>,
    /// Symbols whose addresses stand in `initial`, with their offsets there.
    pub pointers: Vec<(usize, String)>,
    pub space: Space,
    /// `name[]`: as large as the launch says.
    pub dynamic: bool,
}

/// A kernel, or a device function.
#[derive(Clone, Debug, Default)]
pub(crate) struct Function {
    pub name: String,
    pub is_kernel: bool,
    pub line: u32,
    pub parameters: Vec<Variable>,
    /// What a device function returns.
    pub results: Vec<Variable>,
    pub body: Vec<Statement>,
    /// Variables declared inside, of whatever space.
    pub variables: Vec<Variable>,
    /// Registers of each class.
    pub registers: [u32; 3],
    pub directives: HashMap<String, Vec<u64>>,
    pub has_body: bool,
}

/// A place in the source of the PTX: `.loc`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Location {
    pub file: u32,
    pub line: u32,
    /// The call that was inlined, as an index of another location.
    pub inlined_at: Option<u32>,
}

/// A whole file.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    pub functions: Vec<Function>,
    pub variables: Vec<Variable>,
    pub sources: HashMap<u32, String>,
    /// Number 0 says nothing.
    pub locations: Vec<Location>,
}
