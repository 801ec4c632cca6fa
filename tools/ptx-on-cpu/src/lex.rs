//! PTX text to tokens (PTX ISA, "Syntax").

use crate::error::Error;

/// A token, borrowed from the text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Token<'a> {
    /// Identifier, opcode with its modifiers, directive, or register.
    Word(&'a str),
    Integer(u64),
    Single(u32),
    Double(u64),
    Mark(u8),
    /// A directive that ends with its line: `.loc`, `.file`, `.version`, `.target`, ...
    Line(&'a str),
}

/// Directives that end with their line and not with a semicolon.
const LINE_DIRECTIVES: [&str; 6] = [".loc", ".file", ".version", ".target", ".address_size", ".pragma"];

struct Lexer<'a> {
    text: &'a str,
    at: usize,
    line: u32,
}

impl<'a> Lexer<'a> {
    fn byte(&self, ahead: usize) -> u8 {
        self.text.as_bytes().get(self.at + ahead).copied().unwrap_or(0)
    }

    /// Goes on while `keep` holds, and returns what was passed.
    fn take_while(&mut self, keep: impl Fn(u8) -> bool) -> &'a str {
        let start = self.at;
        while self.at < self.text.len() && keep(self.byte(0)) {
            self.line += u32::from(self.byte(0) == b'\n');
            self.at += 1;
        }
        self.text.get(start..self.at).unwrap_or("")
    }

    fn error(&self, finding: impl Into<String>) -> Error {
        Error::new(self.line, finding)
    }

    /// `12`, `0x1f`, `0b11`, `017`, `0f3F800000`, `0d...`, `1.5`; a `U` may follow.
    fn number(&mut self) -> Result<Token<'a>, Error> {
        let radix = match (self.byte(0), self.byte(1)) {
            (b'0', b'f' | b'F') => return self.bits(8).map(|bits| Token::Single(bits as u32)),
            (b'0', b'd' | b'D') => return self.bits(16).map(Token::Double),
            (b'0', b'x' | b'X') => 16,
            (b'0', b'b' | b'B') => 2,
            (b'0', b'0'..=b'7') => 8,
            _ => 10,
        };
        if matches!(radix, 2 | 16) {
            self.at += 2;
        }
        let start = self.at;
        let digits = self.take_while(|byte| (byte as char).is_digit(radix));
        if radix == 10 && self.byte(0) == b'.' && self.byte(1).is_ascii_digit() {
            self.at += 1;
            self.take_while(|byte| byte.is_ascii_alphanumeric());
            let number = &self.text[start..self.at];
            let value: f64 = number.parse().map_err(|_| self.error(format!("{number} is no number")))?;
            return Ok(Token::Double(value.to_bits()));
        }
        let value =
            u64::from_str_radix(digits, radix).map_err(|why| self.error(format!("the number {digits}: {why}")))?;
        if self.byte(0) == b'U' {
            self.at += 1;
        }
        Ok(Token::Integer(value))
    }

    /// The bits of a floating-point constant, in `digits` hexadecimal digits behind a prefix of two characters.
    fn bits(&mut self, digits: usize) -> Result<u64, Error> {
        let text = self.text.get(self.at + 2..self.at + 2 + digits);
        let value = text.and_then(|text| u64::from_str_radix(text, 16).ok());
        self.at += 2 + digits;
        value.ok_or_else(|| self.error(format!("a floating-point constant needs {digits} hexadecimal digits")))
    }

    fn comment(&mut self) -> Result<(), Error> {
        let length = self.text[self.at..].find("*/").ok_or_else(|| self.error("a comment has no end"))?;
        let end = self.at + length + 2;
        self.line += self.text[self.at..end].matches('\n').count() as u32;
        self.at = end;
        Ok(())
    }

    fn word(&mut self) -> &'a str {
        let start = self.at;
        loop {
            self.take_while(is_word);
            if self.byte(0) == b':' && self.byte(1) == b':' && is_word(self.byte(2)) {
                self.at += 2;
            } else {
                return &self.text[start..self.at];
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'.' | b'%')
}

/// All tokens with their lines, which count from 1.
///
/// # Errors
/// A number or a comment that cannot be read.
pub(crate) fn lex(text: &str) -> Result<Vec<(Token<'_>, u32)>, Error> {
    let mut lexer = Lexer { text, at: 0, line: 1 };
    let mut tokens = Vec::new();
    let mut first_of_line = 0;
    while lexer.at < text.len() {
        let (line, begins_line) = (lexer.line, first_of_line != lexer.line);
        let rest = &text.as_bytes()[lexer.at..];
        let byte = lexer.byte(0);
        if byte.is_ascii_whitespace() || byte == 0 {
            lexer.line += u32::from(byte == b'\n');
            lexer.at += 1;
            continue;
        }
        first_of_line = line;
        if rest.starts_with(b"//") {
            lexer.take_while(|byte| byte != b'\n');
            continue;
        }
        if rest.starts_with(b"/*") {
            lexer.comment()?;
            continue;
        }
        let token = if byte.is_ascii_digit() {
            lexer.number()?
        } else if is_word(byte) {
            let start = lexer.at;
            let word = lexer.word();
            if begins_line && LINE_DIRECTIVES.contains(&word) {
                lexer.take_while(|byte| byte != b'\n');
                Token::Line(&text[start..lexer.at])
            } else if word == ".section" {
                // DWARF: nothing of it is needed.
                lexer.take_while(|byte| byte != b'}');
                lexer.at += 1;
                continue;
            } else {
                Token::Word(word)
            }
        } else if byte == b'"' {
            lexer.at += 1;
            lexer.take_while(|byte| byte != b'"');
            lexer.at += 1;
            continue;
        } else if byte.is_ascii() {
            lexer.at += 1;
            Token::Mark(byte)
        } else {
            return Err(lexer.error("a character that PTX does not have"));
        };
        tokens.push((token, line));
    }
    Ok(tokens)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_names() {
        let tokens: Vec<_> = lex("mov.b32 %r1, 0f3F800000; // x\n{0x1fU, 1.5, 017}").unwrap();
        let expected = [
            (Token::Word("mov.b32"), 1),
            (Token::Word("%r1"), 1),
            (Token::Mark(b','), 1),
            (Token::Single(0x3f80_0000), 1),
            (Token::Mark(b';'), 1),
            (Token::Mark(b'{'), 2),
            (Token::Integer(31), 2),
            (Token::Mark(b','), 2),
            (Token::Double(1.5f64.to_bits()), 2),
            (Token::Mark(b','), 2),
            (Token::Integer(15), 2),
            (Token::Mark(b'}'), 2),
        ];
        assert_eq!(tokens, expected);
    }

    #[test]
    fn text_that_is_no_ptx_is_refused_with_its_line() {
        assert_eq!(lex("\n0fzz").unwrap_err().line(), 2);
        assert!(lex("/* no end").is_err());
        assert!(lex("ä").is_err());
        assert!(lex("99999999999999999999999").is_err());
    }
}
