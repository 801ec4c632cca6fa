//! The columns of a line.

use std::borrow::Cow;

/// The columns of a line, without blanks around them. One in double quotes may hold the separator, and quotes that are doubled (RFC
/// 4180); it ends on its line.
pub(crate) fn columns(line: &str, separator: char) -> Vec<Cow<'_, str>> {
    let (mut columns, mut rest) = (Vec::new(), Some(line));
    while let Some(text) = rest {
        let quoted = text.trim_start_matches(' ').strip_prefix('"').and_then(|text| quoted(text, separator));
        let (column, behind) = quoted.unwrap_or_else(|| {
            let (column, behind) = text.split_once(separator).map_or((text, None), |(one, other)| (one, Some(other)));
            (Cow::Borrowed(column.trim().trim_matches('"')), behind)
        });
        columns.push(column);
        rest = behind;
    }
    columns
}

/// The column that ends with the next quote that stands alone, and what is behind its separator; nothing if it ends otherwise.
fn quoted(text: &str, separator: char) -> Option<(Cow<'_, str>, Option<&str>)> {
    let mut from = 0;
    let end = loop {
        let quote = from + text[from..].find('"')?;
        if !text[quote + 1..].starts_with('"') {
            break quote;
        }
        from = quote + 2;
    };
    let (column, behind) = (text[..end].trim(), text[end + 1..].trim_start_matches(' '));
    let column = if column.contains("\"\"") { Cow::Owned(column.replace("\"\"", "\"")) } else { Cow::Borrowed(column) };
    match behind.strip_prefix(separator) {
        Some(behind) => Some((column, Some(behind))),
        None => behind.trim().is_empty().then_some((column, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_and_blanks() {
        assert_eq!(columns("a, b ,c", ','), ["a", "b", "c"]);
        assert_eq!(columns("a,\"b,c\",d", ','), ["a", "b,c", "d"]);
        assert_eq!(columns(" \"say \"\"hi\"\"\" ,", ','), ["say \"hi\"", ""]);
        assert_eq!(columns("\"a\"", ','), ["a"]);
        assert_eq!(columns("\"\"", ','), [""]);
        assert_eq!(columns("", '\t'), [""]);
        assert_eq!(columns("a\t\"b\tc\"\td", '\t'), ["a", "b\tc", "d"]);
        // Quotes that enclose nothing stay what they were.
        assert_eq!(columns("\"a,b", ','), ["a", "b"]);
        assert_eq!(columns("\"a\"b,c", ','), ["a\"b", "c"]);
        assert_eq!(columns("5\" end,c", ','), ["5\" end", "c"]);
    }
}
