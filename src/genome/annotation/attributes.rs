//! The ninth column: `key=value;...` in GFF3, `key "value"; ...` in GTF.
//!
//! Files break both grammars in ways that say all the same what they mean, and are read so: blanks around a GFF3 tag; a `;` inside
//! a GFF3 value that was not escaped (what follows it up to the next `;` has no `=` and is no attribute); a `;` or a quotation mark
//! inside a quoted GTF value.

use super::Format;

/// The attributes of a line.
pub(super) struct Attributes<'a> {
    format: Format,
    column: &'a [u8],
}

impl<'a> Attributes<'a> {
    pub(super) fn new(format: Format, column: &'a [u8]) -> Self {
        Self { format, column }
    }

    /// The first value of the first attribute called `tag` that is not empty.
    pub(super) fn get(&self, tag: &str) -> Option<String> {
        self.values(tag).into_iter().next()
    }

    /// The values of every attribute called `tag` that are not empty: in GFF3 commas separate several of one.
    pub(super) fn values(&self, tag: &str) -> Vec<String> {
        let mut values: Vec<String> = match self.format {
            Format::Gff3 => {
                let of_tag = gff3_pairs(self.column).filter(|(key, _)| *key == tag.as_bytes());
                of_tag.flat_map(|(_, value)| value.split(|&byte| byte == b',')).map(decoded).collect()
            }
            Format::Gtf => {
                let of_tag = GtfPairs(self.column).filter(|(key, _)| *key == tag.as_bytes());
                of_tag.map(|(_, value)| String::from_utf8_lossy(value).trim().to_owned()).collect()
            }
        };
        values.retain(|value| !value.is_empty());
        values
    }

    /// Whether the column holds an attribute at all, or nothing.
    pub(super) fn is_readable(&self) -> bool {
        let text = self.column.trim_ascii();
        let any = match self.format {
            Format::Gff3 => gff3_pairs(text).next().is_some(),
            Format::Gtf => GtfPairs(text).next().is_some(),
        };
        any || text.is_empty() || text == b"."
    }
}

fn gff3_pairs(column: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    column.split(|&byte| byte == b';').filter_map(|field| {
        let equals = field.iter().position(|&byte| byte == b'=')?;
        Some((field[..equals].trim_ascii(), field[equals + 1..].trim_ascii()))
    })
}

/// Keys and values of a GTF column.
struct GtfPairs<'a>(&'a [u8]);

impl<'a> Iterator for GtfPairs<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let blank = |byte: &u8| byte.is_ascii_whitespace();
        let start = self.0.iter().position(|byte| !blank(byte) && *byte != b';')?;
        let text = &self.0[start..];
        let end = text.iter().position(blank)?;
        let (key, rest) = (&text[..end], text[end..].trim_ascii_start());
        let (value, rest) = match rest.strip_prefix(b"\"") {
            // A quotation mark ends the value where `;` or nothing follows.
            Some(rest) => {
                let closes =
                    |&at: &usize| rest[at] == b'"' && matches!(rest[at + 1..].trim_ascii_start(), [] | [b';', ..]);
                let end = (0..rest.len()).find(closes)?;
                (&rest[..end], &rest[end + 1..])
            }
            None => rest.split_at(rest.iter().position(|&byte| byte == b';').unwrap_or(rest.len())),
        };
        self.0 = rest;
        Some((key, value))
    }
}

/// GFF3's text: `%` and two hexadecimal digits stand for a byte.
pub(super) fn decoded(text: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.trim_ascii();
    while let Some((&first, behind)) = rest.split_first() {
        let code = behind.get(..2).and_then(|digits| u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok());
        match code {
            Some(byte) if first == b'%' && behind[0] != b'+' => {
                bytes.push(byte);
                rest = &behind[2..];
            }
            _ => {
                bytes.push(first);
                rest = behind;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gff3_fields() {
        let column = b" ID = t%2C1 ;Note=a; membrane bound;x=1=2; Parent=g%3D1, g2,;Parent=g3;empty=;bad%zz=%4";
        let attributes = Attributes::new(Format::Gff3, column);
        assert_eq!(attributes.values("ID"), ["t,1"]);
        assert_eq!(attributes.values("Note"), ["a"]);
        assert_eq!(attributes.values("x"), ["1=2"]);
        assert_eq!(attributes.values("Parent"), ["g=1", "g2", "g3"]);
        assert_eq!(attributes.get("empty"), None);
        assert_eq!(attributes.get("bad%zz").as_deref(), Some("%4"));
        assert_eq!(decoded(b"%+1%4g%41%"), "%+1%4gA%");
    }

    #[test]
    fn gtf_fields() {
        let column = br#"gene_id "g;1"; transcript_id "t "x" 1" ; note bare word; empty ""; level 2;gene_id "second""#;
        let attributes = Attributes::new(Format::Gtf, column);
        let get = |tag| attributes.get(tag);
        assert_eq!(get("gene_id").as_deref(), Some("g;1"));
        assert_eq!(get("transcript_id").as_deref(), Some("t \"x\" 1"));
        assert_eq!((get("note").as_deref(), get("level").as_deref()), (Some("bare word"), Some("2")));
        assert_eq!((get("empty"), get("absent")), (None, None));
        assert!(!Attributes::new(Format::Gtf, b"alone").is_readable());
        assert!(Attributes::new(Format::Gtf, b" ").is_readable());
    }
}
