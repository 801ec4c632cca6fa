//! Tokens to a [`File`]: directives, variables and signatures here, bodies of functions in `body`.

mod body;

use crate::error::Error;
use crate::lex::{Token, lex};
use crate::syntax::{File, Function, Location, Space, Variable};

/// Tokens with a place among them.
struct Parser<'a> {
    tokens: Vec<(Token<'a>, u32)>,
    at: usize,
    file: File,
    /// Number of the location that holds for the next instruction.
    location: u32,
}

/// Bytes of a type (PTX ISA, "Fundamental Types").
pub(crate) fn size_of_kind(kind: &str) -> Option<usize> {
    Some(match kind {
        ".pred" | ".b8" | ".u8" | ".s8" | ".e4m3" | ".e5m2" => 1,
        ".b16" | ".u16" | ".s16" | ".f16" | ".bf16" => 2,
        ".b32" | ".u32" | ".s32" | ".f32" | ".f16x2" | ".bf16x2" | ".tf32" => 4,
        ".b64" | ".u64" | ".s64" | ".f64" | ".texref" | ".samplerref" | ".surfref" => 8,
        ".b128" => 16,
        _ => return None,
    })
}

fn space_of(word: &str) -> Option<Space> {
    Some(match word {
        ".global" | ".const" => Space::Global,
        ".shared" | ".shared::cta" => Space::Shared,
        ".param" => Space::Param,
        ".local" => Space::Local,
        _ => return None,
    })
}

impl<'a> Parser<'a> {
    fn line(&self) -> u32 {
        let token = self.tokens.get(self.at).or(self.tokens.last());
        token.map_or(1, |token| token.1)
    }

    fn error(&self, finding: impl Into<String>) -> Error {
        Error::new(self.line(), finding)
    }

    fn peek(&self) -> Option<Token<'a>> {
        self.tokens.get(self.at).map(|token| token.0)
    }

    fn next(&mut self) -> Result<Token<'a>, Error> {
        let token = self.peek().ok_or_else(|| self.error("the file ends in the middle of something"))?;
        self.at += 1;
        Ok(token)
    }

    fn is(&self, mark: u8) -> bool {
        self.peek() == Some(Token::Mark(mark))
    }

    fn eat(&mut self, mark: u8) -> bool {
        let found = self.is(mark);
        self.at += usize::from(found);
        found
    }

    fn want(&mut self, mark: u8) -> Result<(), Error> {
        if self.eat(mark) {
            return Ok(());
        }
        Err(self.error(format!("{:?} is wanted here, not {:?}", mark as char, self.peek())))
    }

    fn word(&mut self) -> Result<&'a str, Error> {
        match self.peek() {
            Some(Token::Word(word)) => {
                self.at += 1;
                Ok(word)
            }
            other => Err(self.error(format!("a name is wanted here, not {other:?}"))),
        }
    }

    fn integer(&mut self) -> Result<i64, Error> {
        let negative = self.eat(b'-');
        match self.peek() {
            Some(Token::Integer(value)) => {
                self.at += 1;
                Ok(if negative { (value as i64).wrapping_neg() } else { value as i64 })
            }
            other => Err(self.error(format!("an integer is wanted here, not {other:?}"))),
        }
    }

    fn length(&mut self) -> Result<usize, Error> {
        let length = self.integer()?;
        usize::try_from(length)
            .ok()
            .filter(|length| *length < 1 << 30)
            .ok_or_else(|| self.error(format!("{length} is no length")))
    }

    /// `.loc FILE LINE COLUMN [, function_name LABEL, inlined_at FILE LINE COLUMN]`, `.file NUMBER "NAME"`; others say
    /// nothing that is needed here.
    fn line_directive(&mut self, text: &str) {
        let words: Vec<&str> = text.split([' ', '\t', ',']).filter(|word| !word.is_empty()).collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse::<u32>().ok());
        match words.first() {
            Some(&".file") => {
                if let (Some(number), Some(name)) = (number(1), text.split('"').nth(1)) {
                    self.file.sources.insert(number, name.to_owned());
                }
            }
            Some(&".loc") => {
                let (Some(file), Some(line)) = (number(1), number(2)) else { return };
                let outer = words.iter().position(|word| *word == "inlined_at").and_then(|at| {
                    let place = Location { file: number(at + 1)?, line: number(at + 2)?, inlined_at: None };
                    // The outer call's own `.loc` stands before in the text, and says where that was inlined.
                    let known =
                        self.file.locations.iter().rposition(|it| (it.file, it.line) == (place.file, place.line));
                    Some(known.unwrap_or_else(|| {
                        self.file.locations.push(place);
                        self.file.locations.len() - 1
                    }) as u32)
                });
                let place = Location { file, line, inlined_at: outer };
                if self.file.locations.get(self.location as usize) != Some(&place) {
                    self.file.locations.push(place);
                    self.location = self.file.locations.len() as u32 - 1;
                }
            }
            _ => {}
        }
    }

    /// A declaration behind its state space: `.align 4 .b8 name[12] = {1, 2}`.
    fn variable(&mut self, space: Space) -> Result<Variable, Error> {
        let mut variable = Variable { space, size: 1, ..Variable::default() };
        let (mut lanes, mut is_pointer) = (1, false);
        variable.name = loop {
            let word = self.word()?;
            match word {
                // Behind `.ptr` it is the alignment of what the pointer leads to.
                ".align" if is_pointer => _ = self.length()?,
                ".align" => variable.align = self.length()?,
                ".ptr" => is_pointer = true,
                ".volatile" | ".attribute" | ".managed" => {}
                ".v2" | ".v4" => lanes = if word == ".v2" { 2 } else { 4 },
                _ if space_of(word).is_some() => {}
                _ => match size_of_kind(word) {
                    Some(size) => (variable.size, variable.kind) = (size, word.to_owned()),
                    None if word.starts_with('.') => return Err(self.error(format!("the type {word} is not known"))),
                    None => break word.to_owned(),
                },
            }
        };
        let width = variable.size;
        variable.size *= lanes;
        variable.align = variable.align.max(if variable.align == 0 { variable.size } else { 1 });
        if !variable.align.is_power_of_two() {
            return Err(self.error(format!("{} is aligned to {} bytes", variable.name, variable.align)));
        }
        while self.eat(b'[') {
            if self.is(b']') {
                variable.dynamic = true;
                variable.size = 0;
            } else {
                let length = self.length()?;
                let size = variable.size.checked_mul(length).filter(|size| *size < 1 << 32);
                variable.size = size.ok_or_else(|| self.error("the variable is too large"))?;
            }
            self.want(b']')?;
        }
        if self.eat(b'=') {
            self.initial(&mut variable, width)?;
            // `name[] = {...}` is as long as its values.
            if variable.dynamic {
                (variable.dynamic, variable.size) = (false, variable.initial.len());
            }
        }
        Ok(variable)
    }

    fn initial(&mut self, variable: &mut Variable, width: usize) -> Result<(), Error> {
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(Token::Mark(b'{')) => depth += 1,
                Some(Token::Mark(b'}')) => depth -= 1,
                Some(Token::Mark(b',')) => {}
                Some(Token::Mark(b'-') | Token::Integer(_)) => {
                    let value = self.integer()?;
                    variable.initial.extend(&value.to_le_bytes()[..width.min(8)]);
                    self.at -= 1;
                }
                Some(Token::Single(bits)) => variable.initial.extend(bits.to_le_bytes()),
                Some(Token::Double(bits)) => variable.initial.extend(bits.to_le_bytes()),
                Some(Token::Word("generic")) => {}
                Some(Token::Mark(b'(' | b')')) => {}
                Some(Token::Word(symbol)) => {
                    variable.pointers.push((variable.initial.len(), symbol.to_owned()));
                    variable.initial.extend(&[0; 8][..width.min(8)]);
                }
                other => return Err(self.error(format!("a value is wanted here, not {other:?}"))),
            }
            self.at += 1;
            if depth <= 0 {
                return Ok(());
            }
        }
    }

    /// `.param` declarations or registers in parentheses.
    fn signature(&mut self) -> Result<Vec<Variable>, Error> {
        let mut parameters = Vec::new();
        if !self.eat(b'(') {
            return Ok(parameters);
        }
        while !self.eat(b')') {
            match self.word()? {
                ".param" => parameters.push(self.variable(Space::Param)?),
                // A register of an old calling convention: passed as any other value.
                ".reg" => parameters.push(self.variable(Space::Generic)?),
                other => return Err(self.error(format!("a parameter is wanted here, not {other}"))),
            }
            self.eat(b',');
        }
        Ok(parameters)
    }

    fn function(&mut self, is_kernel: bool) -> Result<(), Error> {
        let results = if is_kernel { Vec::new() } else { self.signature()? };
        let mut function = Function { is_kernel, results, line: self.line(), ..Function::default() };
        function.name = self.word()?.to_owned();
        function.parameters = self.signature()?;
        loop {
            match self.peek() {
                Some(Token::Mark(b'{')) => break,
                Some(Token::Mark(b';')) => {
                    self.at += 1;
                    self.file.functions.push(function);
                    return Ok(());
                }
                Some(Token::Line(text)) => {
                    self.at += 1;
                    self.line_directive(text);
                }
                _ => {
                    let directive = self.word()?.to_owned();
                    let mut values = Vec::new();
                    while let Some(Token::Integer(value)) = self.peek() {
                        self.at += 1;
                        values.push(value);
                        self.eat(b',');
                    }
                    function.directives.insert(directive, values);
                }
            }
        }
        function.has_body = true;
        self.body(&mut function)?;
        self.file.functions.push(function);
        Ok(())
    }

    fn top_level(&mut self) -> Result<(), Error> {
        while self.peek().is_some() {
            match self.next()? {
                Token::Line(text) => self.line_directive(text),
                Token::Word(".visible" | ".extern" | ".weak" | ".common") => {}
                Token::Word(".entry") => self.function(true)?,
                Token::Word(".func") => self.function(false)?,
                Token::Word(".alias") => {
                    while !self.eat(b';') {
                        self.next()?;
                    }
                }
                Token::Word(word) if space_of(word).is_some() => {
                    let space = space_of(word).unwrap_or_default();
                    let variable = self.variable(space)?;
                    self.want(b';')?;
                    self.file.variables.push(variable);
                }
                Token::Mark(b';') => {}
                other => {
                    self.at -= 1;
                    return Err(self.error(format!("{other:?} is not known at the top of a module")));
                }
            }
        }
        Ok(())
    }
}

/// Parses a whole PTX file.
///
/// # Errors
/// The line, and what was not understood there. Unknown instructions are no error here.
pub(crate) fn parse(text: &str) -> Result<File, Error> {
    let file = File { locations: vec![Location::default()], ..File::default() };
    let mut parser = Parser { tokens: lex(text)?, at: 0, file, location: 0 };
    parser.top_level()?;
    Ok(parser.file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syntax::{Class, Operand, Register};

    const TEXT: &str = r#"
.version 8.0
.target sm_90a
.address_size 64
.extern .shared .align 16 .b8 dynamic[];
.global .align 4 .b8 table[8] = {1, 2, 255};
.visible .entry kernel(.param .u64 .ptr .global .align 16 out, .param .align 64 .b8 map[128])
.reqntid 128, 1, 1
{
    .reg .pred %p<2>;
    .reg .b32 %r<3>;
    .loc 1 12 3
    mov.u32 %r1, %tid.x;
    .loc 1 7 9, function_name $L__info_string0, inlined_at 1 12 3
    {
    .reg .pred p;
    again:
    setp.eq.u32 p, %r1, 0;
    @!p bra again;
    }
    ret;
}
.file 1 "a folder/kernel.cu"
"#;

    #[test]
    fn a_kernel() {
        let file = parse(TEXT).unwrap();
        let kernel = &file.functions[0];
        assert_eq!((kernel.name.as_str(), kernel.is_kernel), ("kernel", true));
        assert_eq!((kernel.parameters[0].size, kernel.parameters[0].align), (8, 8));
        assert_eq!((kernel.parameters[1].size, kernel.parameters[1].align), (128, 64));
        assert_eq!(kernel.directives[".reqntid"], [128, 1, 1]);
        assert_eq!(file.variables[1].initial, [1, 2, 255]);
        assert!(file.variables[0].dynamic);
        let branch = &kernel.body[2];
        assert_eq!((branch.targets.as_slice(), branch.line), (&[1][..], 19));
        assert!(branch.guard.unwrap().negated);
        // The register of the inner scope comes behind those of the outer one.
        let register = Register { class: Class::Predicate, index: 2 };
        assert_eq!(kernel.body[1].operands[0], Operand::Register(register));
        let place = file.locations[branch.location as usize];
        assert_eq!((place.line, file.locations[place.inlined_at.unwrap() as usize].line), (7, 12));
        assert_eq!(file.sources[&1], "a folder/kernel.cu");
    }

    #[test]
    fn what_is_no_ptx_names_its_line() {
        for (text, line) in [
            ("\n.entry k() { mov.b32 %r1, 0; }", 2),
            (".entry k() {\n bra nowhere; }", 2),
            ("hello", 1),
            (".entry k() {", 1),
            (".entry k() { .reg .b32 r<99999999999>; }", 1),
            (".global .b99 x;", 1),
        ] {
            let error = parse(text).map(|_| ()).unwrap_err();
            assert_eq!(error.line(), line, "{text:?}: {error}");
        }
    }
}
