//! Statements to instructions. Immediates, special registers and addresses of variables become registers that nobody writes,
//! so that every source is a row. What cannot be decoded becomes an instruction that faults when it is executed.

mod conversions;
mod floats;
mod integers;
mod matrices;
mod moves;
mod synchronization;
mod transfers;

use std::collections::HashMap;

use crate::counters::InstructionClass;
use crate::instruction::{Address, Code, Constant, Instruction, NONE, Operation};
use crate::rows::{RowOperation, row};
use crate::syntax::{Class, Function, Operand, Register, Space, Statement, Variable};

/// The first address of shared memory that a kernel has: what lies below is the system's. It is aligned as little as a kernel
/// may count on.
pub(crate) const SHARED_BASE: u32 = 0x400;

/// Why an instruction was not decoded.
type Result<T = ()> = std::result::Result<T, String>;

/// An opcode in its parts.
pub(crate) struct Opcode<'a> {
    pub text: &'a str,
    /// In front of the first point.
    pub base: &'a str,
    /// Behind it.
    pub parts: Vec<&'a str>,
    /// The last part: most often the type.
    pub kind: &'a str,
}

impl<'a> Opcode<'a> {
    fn new(text: &'a str) -> Self {
        let mut parts = text.split('.');
        let base = parts.next().unwrap_or("");
        let parts: Vec<&str> = parts.collect();
        Self { text, base, kind: parts.last().copied().unwrap_or(""), parts }
    }

    pub fn has(&self, modifier: &str) -> bool {
        self.parts.contains(&modifier)
    }

    /// The first of `modifiers` that stands there.
    pub fn which(&self, modifiers: &[&'a str]) -> Option<&'a str> {
        self.parts.iter().find(|part| modifiers.contains(part)).copied()
    }

    pub fn is_wide(&self) -> bool {
        matches!(self.kind, "b64" | "u64" | "s64" | "f64")
    }

    pub fn is_signed(&self) -> bool {
        self.kind.starts_with('s')
    }

    /// State space; `shared::cta` and `shared::cluster` are one.
    pub fn space(&self) -> Space {
        for part in &self.parts {
            match *part {
                "global" | "const" => return Space::Global,
                "param" | "param::entry" | "param::func" => return Space::Param,
                "local" => return Space::Local,
                _ if part.starts_with("shared") => return Space::Shared,
                _ => {}
            }
        }
        Space::Generic
    }

    fn unknown<T>(&self) -> Result<T> {
        Err(format!("the instruction {} is not known", self.text))
    }
}

/// Where variables are: shared addresses begin at [`SHARED_BASE`], parameters, local and global ones at 0 of their own.
pub(crate) struct Layout {
    symbols: HashMap<String, (Space, u64)>,
    parameter_bytes: usize,
    shared_end: usize,
    local_bytes: usize,
}

impl Layout {
    /// Shared variables of the module count where the kernel uses them; the dynamic one comes behind all others.
    pub fn new(function: &Function, module: &[Variable], globals: &HashMap<String, u64>) -> Self {
        let mut symbols: HashMap<String, (Space, u64)> =
            globals.iter().map(|(name, at)| (name.clone(), (Space::Global, *at))).collect();
        let mut place = |end: &mut usize, variable: &Variable, space| {
            *end = end.next_multiple_of(variable.align.max(1));
            symbols.insert(variable.name.clone(), (space, *end as u64));
            *end += variable.size;
        };
        let (mut parameter_bytes, mut local_bytes, mut shared_end) = (0, 0, SHARED_BASE as usize);
        for parameter in &function.parameters {
            place(&mut parameter_bytes, parameter, Space::Param);
        }
        for variable in function.variables.iter().filter(|it| matches!(it.space, Space::Local | Space::Param)) {
            place(&mut local_bytes, variable, Space::Local);
        }
        let mut used = std::collections::HashSet::new();
        for operand in function.body.iter().flat_map(|statement| &statement.operands) {
            collect_symbols(operand, &mut used);
        }
        let shared = function.variables.iter().chain(module).filter(|it| it.space == Space::Shared);
        let (dynamic, fixed): (Vec<_>, Vec<_>) = shared.partition(|variable| variable.dynamic);
        for variable in fixed.into_iter().filter(|variable| used.contains(variable.name.as_str())) {
            place(&mut shared_end, variable, Space::Shared);
        }
        let used_dynamic = dynamic.into_iter().filter(|variable| used.contains(variable.name.as_str()));
        for variable in used_dynamic {
            place(&mut shared_end, variable, Space::Shared);
        }
        Self { symbols, parameter_bytes, shared_end, local_bytes }
    }
}

fn collect_symbols<'a>(operand: &'a Operand, found: &mut std::collections::HashSet<&'a str>) {
    match operand {
        Operand::Symbol(name, _) => {
            found.insert(name);
        }
        Operand::Address(base, _) => collect_symbols(base, found),
        Operand::Tensor(base, more) => {
            collect_symbols(base, found);
            more.iter().for_each(|operand| collect_symbols(operand, found));
        }
        Operand::Vector(more) | Operand::List(more) => more.iter().for_each(|it| collect_symbols(it, found)),
        Operand::Pair(first, second) => {
            collect_symbols(first, found);
            collect_symbols(second, found);
        }
        _ => {}
    }
}

/// Makes a [`Code`]. Registers are virtual: numbers in [`Code::classes`].
pub(crate) struct Decoder<'a> {
    pub code: Code,
    layout: &'a Layout,
    /// Number of the first register of each class.
    first: [u32; 3],
    constants: HashMap<(Constant, Class), u32>,
    /// Results in temporaries that are to be widened: (temporary, register, signed).
    widenings: Vec<(u32, u32, bool)>,
    /// The carry flag of extended arithmetic.
    carry: Option<u32>,
}

impl Decoder<'_> {
    fn new_register(&mut self, class: Class) -> u32 {
        self.code.classes.push(class);
        self.code.classes.len() as u32 - 1
    }

    fn constant(&mut self, class: Class, constant: Constant) -> u32 {
        if let Some(register) = self.constants.get(&(constant.clone(), class)) {
            return *register;
        }
        let register = self.new_register(class);
        self.code.constants.push((constant.clone(), register));
        self.constants.insert((constant, class), register);
        register
    }

    fn register(&self, register: Register) -> u32 {
        self.first[register.class as usize] + register.index
    }

    fn symbol(&mut self, class: Class, name: &str, offset: i64) -> Result<u32> {
        if name == "WARP_SZ" {
            return Ok(self.constant(class, Constant::Bits(32)));
        }
        let (space, at) = *self.layout.symbols.get(name).ok_or_else(|| format!("nothing is called {name}"))?;
        let at = at.wrapping_add_signed(offset);
        Ok(match space {
            Space::Shared => self.constant(class, Constant::Shared(at as u32)),
            Space::Global => self.constant(class, Constant::Global(at)),
            _ => self.constant(class, Constant::Bits(at)),
        })
    }

    /// A register that holds a source of `class`. A source may be in a wider register than its type (PTX ISA, "Operand Size
    /// Exceeding Instruction-Type Size"): its low half is meant.
    pub fn source(&mut self, class: Class, operand: &Operand) -> Result<u32> {
        Ok(match (operand, class) {
            (Operand::Register(register), _) => {
                let number = self.register(*register);
                match (register.class, class) {
                    (from, to) if from == to => number,
                    (Class::Wide, Class::Narrow) => self.helper(row!(|x: u64| -> u32 { x as u32 }), &[number]),
                    (Class::Narrow, Class::Wide) => self.helper(row!(|x: u32| -> u64 { u64::from(x) }), &[number]),
                    _ => return Err("a predicate and a number are mixed up".into()),
                }
            }
            (Operand::Not(register), Class::Predicate) => {
                let number = self.register(*register);
                self.helper(row!(|x: bool| -> bool { !x }), &[number])
            }
            (Operand::Integer(value), Class::Predicate) => {
                self.constant(class, Constant::Bits(if *value == 0 { 0 } else { u64::from(u32::MAX) }))
            }
            (Operand::Integer(value), Class::Wide) => self.constant(class, Constant::Bits(*value)),
            (Operand::Integer(value), _) => self.constant(class, Constant::Bits(*value & 0xffff_ffff)),
            (Operand::Single(bits), Class::Narrow) => self.constant(class, Constant::Bits(u64::from(*bits))),
            (Operand::Single(bits), Class::Wide) => {
                self.constant(class, Constant::Bits(f64::from(f32::from_bits(*bits)).to_bits()))
            }
            (Operand::Double(bits), Class::Narrow) => {
                self.constant(class, Constant::Bits(u64::from((f64::from_bits(*bits) as f32).to_bits())))
            }
            (Operand::Double(bits), Class::Wide) => self.constant(class, Constant::Bits(*bits)),
            (Operand::Special(name), Class::Narrow | Class::Wide) => {
                if name.starts_with("%clock") || name.starts_with("%globaltimer") {
                    let result = self.new_register(class);
                    self.emit(Operation::Clock { wide: class == Class::Wide }, &[result], &[]);
                    return Ok(result);
                }
                self.constant(class, Constant::Special(name.clone()))
            }
            (Operand::Symbol(name, offset), Class::Narrow | Class::Wide) => self.symbol(class, name, *offset)?,
            (other, _) => return Err(format!("the operand {other:?} is not understood")),
        })
    }

    pub fn narrow(&mut self, operand: &Operand) -> Result<u32> {
        self.source(Class::Narrow, operand)
    }

    pub fn wide(&mut self, operand: &Operand) -> Result<u32> {
        self.source(Class::Wide, operand)
    }

    pub fn predicate(&mut self, operand: &Operand) -> Result<u32> {
        self.source(Class::Predicate, operand)
    }

    /// A register for a result of `class`; a wider register gets it extended.
    pub fn result(&mut self, class: Class, operand: &Operand, signed: bool) -> Result<u32> {
        match operand {
            Operand::Register(register) if register.class == class => Ok(self.register(*register)),
            Operand::Register(register) if (register.class, class) == (Class::Wide, Class::Narrow) => {
                let temporary = self.new_register(Class::Narrow);
                let number = self.register(*register);
                self.widenings.push((temporary, number, signed));
                Ok(temporary)
            }
            Operand::Sink => Ok(self.new_register(class)),
            other => Err(format!("{other:?} cannot hold a result")),
        }
    }

    /// A step of this statement.
    pub fn emit(&mut self, operation: Operation, results: &[u32], sources: &[u32]) -> &mut Instruction {
        let first = self.code.registers.len() as u32;
        self.code.registers.extend(results);
        self.code.registers.extend(sources);
        self.code.instructions.push(Instruction {
            operation,
            guard: NONE,
            negated: false,
            first,
            count: (results.len() + sources.len()) as u16,
            results: results.len() as u16,
            updates: false,
            is_move: false,
            counts: false,
            class: InstructionClass::default(),
            special: 0,
            tracked: NONE,
            target: NONE,
            statement: 0,
        });
        let last = self.code.instructions.len() - 1;
        &mut self.code.instructions[last]
    }

    /// A step in between, with a result of its own.
    pub fn helper(&mut self, operation: RowOperation, sources: &[u32]) -> u32 {
        let result = self.new_register(operation.result);
        self.emit(Operation::Rows(operation.function), &[result], sources);
        result
    }

    /// `d, a, b, ...` as the row function has them.
    pub fn compute(&mut self, operation: RowOperation, operands: &[Operand], signed: bool) -> Result {
        if operands.len() != operation.sources.len() + 1 {
            return Err(format!("{} operands, where {} are wanted", operands.len(), operation.sources.len() + 1));
        }
        let mut sources = Vec::new();
        for (class, operand) in operation.sources.iter().zip(&operands[1..]) {
            sources.push(self.source(*class, operand)?);
        }
        let result = self.result(operation.result, &operands[0], signed)?;
        self.emit(Operation::Rows(operation.function), &[result], &sources);
        Ok(())
    }

    /// The register of an address, and how the address is made of it.
    pub fn address(&mut self, operand: &Operand) -> Result<(u32, Address)> {
        let (base, offset) = match operand {
            Operand::Address(base, offset) => (&**base, *offset),
            Operand::Tensor(base, _) => (&**base, 0),
            other => return Err(format!("{other:?} is no address")),
        };
        let class = match base {
            Operand::Register(register) if register.class == Class::Predicate => {
                return Err("a predicate is no address".into());
            }
            Operand::Register(register) => register.class,
            _ => Class::Wide,
        };
        let register = self.source(class, base)?;
        Ok((register, Address { wide: class == Class::Wide, offset }))
    }

    /// The elements of a vector operand, or the one operand there is.
    pub fn elements<'o>(&self, operand: &'o Operand) -> &'o [Operand] {
        match operand {
            Operand::Vector(elements) => elements,
            other => std::slice::from_ref(other),
        }
    }

    fn narrow_all(&mut self, operand: &Operand) -> Result<Vec<u32>> {
        self.elements(operand).iter().map(|element| self.narrow(element)).collect()
    }

    fn statement(&mut self, statement: &Statement) -> Result {
        let opcode = Opcode::new(&statement.opcode);
        let operands = &statement.operands[..];
        if let Some(operation) = integers::operation(&opcode)?.or(floats::operation(&opcode)?) {
            self.compute(operation, operands, opcode.is_signed())?;
            if opcode.has("sat") {
                floats::saturate(self, &opcode, operands)?;
            }
            return Ok(());
        }
        if integers::special(self, &opcode, operands)?
            || conversions::decode(self, &opcode, operands)?
            || moves::decode(self, &opcode, operands)?
            || transfers::decode(self, &opcode, operands)?
            || matrices::decode(self, &opcode, operands)?
            || synchronization::decode(self, &opcode, operands, statement)?
        {
            return Ok(());
        }
        opcode.unknown()
    }
}

/// Decodes a kernel.
pub(crate) fn decode(function: &Function, layout: &Layout) -> Code {
    let [predicates, narrow, wide] = function.registers;
    let mut classes = vec![Class::Predicate; predicates as usize];
    classes.resize((predicates + narrow) as usize, Class::Narrow);
    classes.resize((predicates + narrow + wide) as usize, Class::Wide);
    let code = Code {
        name: function.name.clone(),
        classes,
        parameter_bytes: layout.parameter_bytes,
        shared_end: layout.shared_end,
        local_bytes: layout.local_bytes,
        ..Code::default()
    };
    let mut decoder = Decoder {
        code,
        layout,
        first: [0, predicates, predicates + narrow],
        constants: HashMap::new(),
        widenings: Vec::new(),
        carry: None,
    };
    let declared = decoder.code.classes.len() as u32;
    let mut starts = Vec::with_capacity(function.body.len() + 1);
    for (number, statement) in function.body.iter().enumerate() {
        let start = decoder.code.instructions.len();
        starts.push(start as u32);
        if let Err(why) = decoder.statement(statement) {
            decoder.code.instructions.truncate(start);
            decoder.widenings.clear();
            let text = format!("{why} (in {})", statement.opcode);
            decoder.emit(Operation::Unknown(text), &[], &[]);
        }
        for (temporary, register, signed) in std::mem::take(&mut decoder.widenings) {
            let widen =
                if signed { row!(|x: i32| -> i64 { i64::from(x) }) } else { row!(|x: u32| -> u64 { u64::from(x) }) };
            decoder.emit(Operation::Rows(widen.function), &[register], &[temporary]);
        }
        let class = InstructionClass::of(&statement.opcode);
        for (step, instruction) in decoder.code.instructions[start..].iter_mut().enumerate() {
            instruction.counts = step == 0;
            instruction.class = class;
            if class == InstructionClass::Special {
                instruction.special = 1 + u8::from(statement.opcode.ends_with("x2"));
            }
            instruction.statement = number as u32;
            // Temporaries are written in all lanes: nothing depends on the others.
            let first = instruction.first as usize;
            let is_temporary = matches!(instruction.operation, Operation::Rows(_))
                && decoder.code.registers[first] >= declared
                && Some(decoder.code.registers[first]) != decoder.carry;
            if let Some(guard) = statement.guard.filter(|_| !is_temporary) {
                instruction.guard = guard.register.index;
                instruction.negated = guard.negated;
            }
            instruction.target = statement.targets.first().map_or(NONE, |target| *target as u32);
            if let Operation::BranchTable(targets) = &mut instruction.operation {
                *targets = statement.targets.iter().map(|target| *target as u32).collect();
            }
        }
    }
    starts.push(decoder.code.instructions.len() as u32);
    decoder.emit(Operation::Exit, &[], &[]).statement = function.body.len() as u32;
    for instruction in &mut decoder.code.instructions {
        if instruction.target != NONE {
            instruction.target = starts[instruction.target as usize];
        }
        if let Operation::BranchTable(targets) = &mut instruction.operation {
            targets.iter_mut().for_each(|target| *target = starts[*target as usize]);
        }
    }
    decoder.code.places = function.body.iter().map(|statement| (statement.line, statement.location)).collect();
    decoder.code.places.push((function.line, 0));
    decoder.code
}
