//! Device functions are put in place of their calls (PTX ISA, "call"): their parameters are the variables that the caller passes,
//! and a `ret` is a branch behind the body. What calls itself, or is not in the file, stays a call, which is a fault when it is
//! executed.

use std::collections::HashMap;

use crate::syntax::{File, Function, Guard, Operand, Register, Space, Statement};

/// No kernel becomes longer than so many statements by what it calls.
const LONGEST: usize = 1 << 20;

/// Parts of a call: what is called, and the variables for results and for arguments.
fn parts(operands: &[Operand]) -> Option<(&str, &[Operand], &[Operand])> {
    let (results, rest) = match operands {
        [Operand::List(results), rest @ ..] => (&results[..], rest),
        rest => (&[][..], rest),
    };
    match rest {
        [Operand::Symbol(name, 0), Operand::List(arguments), ..] => Some((name, results, arguments)),
        [Operand::Symbol(name, 0)] => Some((name, results, &[])),
        _ => None,
    }
}

/// Registers and symbols of a function as its caller has them.
struct Names {
    registers: [u32; 3],
    symbols: HashMap<String, String>,
}

impl Names {
    fn register(&self, register: &mut Register) {
        register.index += self.registers[register.class as usize];
    }

    fn operand(&self, operand: &mut Operand) {
        match operand {
            Operand::Register(register) | Operand::Not(register) => self.register(register),
            Operand::Symbol(name, _) => {
                if let Some(new) = self.symbols.get(name) {
                    name.clone_from(new);
                }
            }
            Operand::Address(base, _) => self.operand(base),
            Operand::Tensor(base, more) => {
                self.operand(base);
                more.iter_mut().for_each(|operand| self.operand(operand));
            }
            Operand::Vector(more) | Operand::List(more) => more.iter_mut().for_each(|operand| self.operand(operand)),
            Operand::Pair(first, second) => {
                self.operand(first);
                self.operand(second);
            }
            _ => {}
        }
    }
}

/// A function without calls of others in the file.
pub(crate) fn inline(function: &Function, file: &File) -> Function {
    expand(function, file, &mut vec![function.name.clone()])
}

fn expand(function: &Function, file: &File, callers: &mut Vec<String>) -> Function {
    if !function.body.iter().any(|statement| statement.opcode.starts_with("call")) {
        return function.clone();
    }
    let mut whole = Function { body: Vec::new(), ..function.clone() };
    // Where each statement of the function has gone, and statements whose targets are the function's.
    let mut places = Vec::with_capacity(function.body.len() + 1);
    let mut own = Vec::new();
    for statement in &function.body {
        places.push(whole.body.len());
        let called = parts(&statement.operands).filter(|_| statement.opcode.starts_with("call"));
        let found = called.and_then(|(name, results, arguments)| {
            let callee = file.functions.iter().find(|it| it.name == name && it.has_body)?;
            Some((callee, results, arguments))
        });
        match found {
            Some((callee, _, _)) if callers.contains(&callee.name) => {
                let opcode = "call.recursive".to_owned();
                whole.body.push(Statement { opcode, ..statement.clone() });
            }
            Some((callee, results, arguments)) if whole.body.len() < LONGEST => {
                callers.push(callee.name.clone());
                let callee = expand(callee, file, callers);
                callers.pop();
                insert(&mut whole, statement, callee, results, arguments);
            }
            _ => {
                own.push(whole.body.len());
                whole.body.push(statement.clone());
            }
        }
    }
    places.push(whole.body.len());
    for at in own {
        whole.body[at].targets.iter_mut().for_each(|target| *target = places[*target]);
    }
    whole
}

/// Puts a function's body behind what there is of its caller.
fn insert(whole: &mut Function, call: &Statement, callee: Function, results: &[Operand], arguments: &[Operand]) {
    let mut names = Names { registers: whole.registers, symbols: HashMap::new() };
    let passed = callee.results.iter().zip(results).chain(callee.parameters.iter().zip(arguments));
    for (variable, operand) in passed {
        if let Operand::Symbol(name, 0) = operand {
            names.symbols.insert(variable.name.clone(), name.clone());
        }
    }
    for mut variable in callee.variables {
        let name = format!("{}@{}", variable.name, whole.variables.len());
        names.symbols.insert(std::mem::replace(&mut variable.name, name.clone()), name);
        if variable.space == Space::Param {
            variable.space = Space::Local;
        }
        whole.variables.push(variable);
    }
    for (count, more) in whole.registers.iter_mut().zip(callee.registers) {
        *count += more;
    }
    let skips = usize::from(call.guard.is_some());
    let (start, end) = (whole.body.len() + skips, whole.body.len() + skips + callee.body.len());
    if let Some(Guard { register, negated }) = call.guard {
        let guard = Some(Guard { register, negated: !negated });
        let (opcode, operands) = ("bra".to_owned(), Vec::new());
        whole.body.push(Statement { opcode, operands, guard, targets: vec![end], ..*call });
    }
    for mut statement in callee.body {
        statement.operands.iter_mut().for_each(|operand| names.operand(operand));
        if let Some(guard) = &mut statement.guard {
            names.register(&mut guard.register);
        }
        statement.targets.iter_mut().for_each(|target| *target += start);
        if statement.opcode == "ret" || statement.opcode.starts_with("ret.") {
            statement.opcode = "bra".into();
            statement.targets = vec![end];
        }
        whole.body.push(statement);
    }
}
