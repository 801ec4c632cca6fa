//! Bodies of functions: declarations, labels and instructions, in scopes that inline assembly opens again and again.

use std::collections::HashMap;

use super::{Parser, size_of_kind, space_of};
use crate::error::Error;
use crate::lex::Token;
use crate::syntax::{Class, Function, Guard, Operand, Register, Space, Statement};

/// What `{` opens.
#[derive(Default)]
struct Scope {
    number: usize,
    registers: HashMap<String, Register>,
    /// `.reg .b32 %r<100>`: the name in front, and (first, count).
    ranges: HashMap<String, (Register, u32)>,
    /// Names of variables, and those under which the function has them.
    variables: HashMap<String, String>,
}

/// A branch whose labels are looked up when the function has been read: scopes from the inner one out.
struct Reference {
    statement: usize,
    label: String,
    scopes: Vec<usize>,
    line: u32,
}

#[derive(Default)]
struct Body {
    scopes: Vec<Scope>,
    opened: usize,
    labels: HashMap<(usize, String), usize>,
    /// `.branchtargets` lists by the label in front of them.
    tables: HashMap<(usize, String), Vec<String>>,
    references: Vec<Reference>,
}

impl Body {
    fn find(&self, name: &str) -> Option<Register> {
        let digits = name.len() - name.trim_end_matches(|digit: char| digit.is_ascii_digit()).len();
        let (front, number) = name.split_at(name.len() - digits);
        self.scopes.iter().rev().find_map(|scope| {
            if let Some(register) = scope.registers.get(name) {
                return Some(*register);
            }
            // Parts of the digits may belong to the name: `%x1<5>` declares `%x10`.
            (0..digits).find_map(|taken| {
                let (first, count) = scope.ranges.get(&name[..front.len() + taken])?;
                let number: u32 = number[taken..].parse().ok().filter(|number| number < count)?;
                Some(Register { class: first.class, index: first.index + number })
            })
        })
    }

    fn chain(&self) -> Vec<usize> {
        self.scopes.iter().rev().map(|scope| scope.number).collect()
    }
}

impl<'a> Parser<'a> {
    /// From the opening brace to the closing one.
    pub(super) fn body(&mut self, function: &mut Function) -> Result<(), Error> {
        let mut body = Body::default();
        let mut parameters = HashMap::new();
        for variable in function.parameters.iter().chain(&function.results) {
            parameters.insert(variable.name.clone(), variable.name.clone());
        }
        loop {
            let line = self.line();
            match self.next()? {
                Token::Mark(b'{') => {
                    let variables = std::mem::take(&mut parameters);
                    body.scopes.push(Scope { number: body.opened, variables, ..Scope::default() });
                    body.opened += 1;
                }
                Token::Mark(b'}') => {
                    body.scopes.pop();
                    if body.scopes.is_empty() {
                        break;
                    }
                }
                Token::Mark(b';') => {}
                Token::Line(text) => self.line_directive(text),
                Token::Word(".reg") => self.registers(function, &mut body)?,
                Token::Word(".callprototype" | ".calltargets") => {
                    while !self.eat(b';') {
                        self.next()?;
                    }
                }
                Token::Word(word) if space_of(word).is_some() => {
                    let space = space_of(word).unwrap_or_default();
                    let mut variable = self.variable(space)?;
                    self.want(b';')?;
                    let inner = format!("{}#{}", variable.name, function.variables.len());
                    if let Some(scope) = body.scopes.last_mut() {
                        scope.variables.insert(std::mem::replace(&mut variable.name, inner.clone()), inner);
                    }
                    function.variables.push(variable);
                }
                Token::Word(label) if self.is(b':') => {
                    self.at += 1;
                    let scope = body.scopes.last().map_or(0, |scope| scope.number);
                    if self.peek() == Some(Token::Word(".branchtargets")) {
                        self.at += 1;
                        let mut table = Vec::new();
                        while !self.eat(b';') {
                            table.push(self.word()?.to_owned());
                            self.eat(b',');
                        }
                        body.tables.insert((scope, label.to_owned()), table);
                    } else {
                        body.labels.insert((scope, label.to_owned()), function.body.len());
                    }
                }
                token => self.statement(token, line, function, &mut body)?,
            }
        }
        resolve(function, &body)
    }

    /// `.reg .b32 %r<10>, x;`
    fn registers(&mut self, function: &mut Function, body: &mut Body) -> Result<(), Error> {
        let mut kind = self.word()?;
        while kind == ".v2" || kind == ".v4" {
            kind = self.word()?;
        }
        let class = match size_of_kind(kind) {
            _ if kind == ".pred" => Class::Predicate,
            Some(1 | 2 | 4) => Class::Narrow,
            Some(8) => Class::Wide,
            _ => return Err(self.error(format!("registers of type {kind} are not known"))),
        };
        loop {
            let name = self.word()?.to_owned();
            let index = &mut function.registers[class as usize];
            let register = Register { class, index: *index };
            let count = if self.eat(b'<') {
                let count = u32::try_from(self.integer()?).ok().filter(|count| *count < 1 << 20);
                let count = count.ok_or_else(|| self.error("more registers than a kernel can have"))?;
                self.want(b'>')?;
                count
            } else {
                0
            };
            *index += count.max(1);
            if *index > 1 << 22 {
                return Err(self.error("more registers than a kernel can have"));
            }
            let Some(scope) = body.scopes.last_mut() else { return Err(self.error("a register outside a scope")) };
            if count > 0 {
                scope.ranges.insert(name, (register, count));
            } else {
                scope.registers.insert(name, register);
            }
            if !self.eat(b',') {
                return self.want(b';');
            }
        }
    }

    fn statement(
        &mut self,
        token: Token<'a>,
        line: u32,
        function: &mut Function,
        body: &mut Body,
    ) -> Result<(), Error> {
        let mut guard = None;
        let opcode = match token {
            Token::Mark(b'@') => {
                let negated = self.eat(b'!');
                let name = self.word()?;
                let register = body.find(name).ok_or_else(|| self.error(format!("no register is called {name}")))?;
                guard = Some(Guard { register, negated });
                self.word()?
            }
            Token::Word(word) => word,
            other => return Err(Error::new(line, format!("an instruction is wanted here, not {other:?}"))),
        };
        let mut operands = Vec::new();
        while !self.eat(b';') {
            operands.push(self.operand(body)?);
            self.eat(b',');
            // The last instruction of inline assembly may lack its semicolon.
            if self.is(b'}') {
                break;
            }
        }
        let label = match (opcode.split('.').next(), &operands[..]) {
            (Some("bra"), [Operand::Symbol(label, _)]) | (Some("brx"), [_, Operand::Symbol(label, _)]) => Some(label),
            _ => None,
        };
        if let Some(label) = label {
            let reference =
                Reference { statement: function.body.len(), label: label.clone(), scopes: body.chain(), line };
            body.references.push(reference);
        }
        let opcode = opcode.to_owned();
        function.body.push(Statement { opcode, operands, guard, line, location: self.location, targets: Vec::new() });
        Ok(())
    }

    fn operand(&mut self, body: &Body) -> Result<Operand, Error> {
        if self.eat(b'{') {
            return Ok(Operand::Vector(self.list(b'}', body)?));
        }
        if self.eat(b'(') {
            return Ok(Operand::List(self.list(b')', body)?));
        }
        if self.eat(b'[') {
            let base = Box::new(self.single(body)?);
            let offset = if self.eat(b'+') || self.is(b'-') { self.integer()? } else { 0 };
            if !self.eat(b',') {
                self.want(b']')?;
                return Ok(Operand::Address(base, offset));
            }
            self.want(b'{')?;
            let coordinates = self.list(b'}', body)?;
            self.want(b']')?;
            return Ok(Operand::Tensor(base, coordinates));
        }
        let first = self.single(body)?;
        if self.eat(b'|') {
            return Ok(Operand::Pair(Box::new(first), Box::new(self.single(body)?)));
        }
        match first {
            Operand::Symbol(name, 0) if self.is(b'+') || self.is(b'-') => {
                self.eat(b'+');
                Ok(Operand::Symbol(name, self.integer()?))
            }
            other => Ok(other),
        }
    }

    fn list(&mut self, end: u8, body: &Body) -> Result<Vec<Operand>, Error> {
        let mut operands = Vec::new();
        while !self.eat(end) {
            operands.push(self.single(body)?);
            self.eat(b',');
        }
        Ok(operands)
    }

    fn single(&mut self, body: &Body) -> Result<Operand, Error> {
        if self.eat(b'!') {
            let name = self.word()?;
            let register = body.find(name).ok_or_else(|| self.error(format!("no register is called {name}")))?;
            return Ok(Operand::Not(register));
        }
        if self.is(b'-') {
            return Ok(match self.tokens.get(self.at + 1) {
                Some((Token::Single(bits), _)) => {
                    self.at += 2;
                    Operand::Single(bits ^ 0x8000_0000)
                }
                Some((Token::Double(bits), _)) => {
                    self.at += 2;
                    Operand::Double(bits ^ 1 << 63)
                }
                _ => Operand::Integer(self.integer()? as u64),
            });
        }
        Ok(match self.next()? {
            Token::Integer(value) => Operand::Integer(value),
            Token::Single(bits) => Operand::Single(bits),
            Token::Double(bits) => Operand::Double(bits),
            Token::Word("_") => Operand::Sink,
            Token::Word(name) => {
                if let Some(register) = body.find(name) {
                    Operand::Register(register)
                } else if name.starts_with('%') {
                    if is_special(name) {
                        Operand::Special(name.to_owned())
                    } else {
                        self.at -= 1;
                        return Err(self.error(format!("no register is called {name}")));
                    }
                } else {
                    let renamed = body.scopes.iter().rev().find_map(|scope| scope.variables.get(name));
                    Operand::Symbol(renamed.map_or(name, String::as_str).to_owned(), 0)
                }
            }
            other => {
                self.at -= 1;
                return Err(self.error(format!("an operand is wanted here, not {other:?}")));
            }
        })
    }
}

/// Special registers (PTX ISA, "Special Registers").
fn is_special(name: &str) -> bool {
    const NAMES: [&str; 30] = [
        // One name a register, its .x, .y, .z aside.
        "tid",
        "ntid",
        "laneid",
        "warpid",
        "nwarpid",
        "ctaid",
        "nctaid",
        "smid",
        "nsmid",
        "gridid",
        "clusterid",
        "nclusterid",
        "cluster_ctaid",
        "cluster_nctaid",
        "cluster_ctarank",
        "cluster_nctarank",
        "is_explicit_cluster",
        "lanemask_eq",
        "lanemask_le",
        "lanemask_lt",
        "lanemask_ge",
        "lanemask_gt",
        "clock",
        "clock_hi",
        "clock64",
        "globaltimer",
        "globaltimer_lo",
        "globaltimer_hi",
        "dynamic_smem_size",
        "total_smem_size",
    ];
    let name = &name[1..];
    NAMES.contains(&name.split('.').next().unwrap_or(name))
        || name.starts_with("envreg")
        || name == "current_graph_exec"
}

/// Gives branches the statements that their labels stand before.
fn resolve(function: &mut Function, body: &Body) -> Result<(), Error> {
    for Reference { statement, label, scopes, line } in &body.references {
        let find = |label: &String| {
            let found = scopes.iter().find_map(|scope| body.labels.get(&(*scope, label.clone())));
            found.copied().ok_or_else(|| Error::new(*line, format!("there is no label {label}")))
        };
        let table = scopes.iter().find_map(|scope| body.tables.get(&(*scope, label.clone())));
        let targets = match table {
            Some(table) => table.iter().map(find).collect::<Result<_, _>>()?,
            None => vec![find(label)?],
        };
        function.body[*statement].targets = targets;
    }
    // Variables of the function's own are told from parameters by their space.
    function.variables.retain(|variable| variable.space != Space::Generic);
    Ok(())
}
