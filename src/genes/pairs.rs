//! Files of gene pairs: two names a line, with blanks or a tab between them, plain or gzipped.

use std::borrow::Cow;
use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::kmer::lines::Lines;
use crate::{Error, Result};

/// The longest name of a gene, in bytes: what has a longer one is another file.
pub const LONGEST_NAME: usize = 1 << 12;

/// What the bytes 0x80 to 0x9F stand for in Windows code page 1252, in which Gene2vec's files are written (U+FFFD: for nothing).
const CODE_PAGE_1252: [char; 32] = [
    '€', '\u{fffd}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{fffd}', 'Ž', '\u{fffd}', '\u{fffd}',
    '‘', '’', '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{fffd}', 'ž', 'Ÿ',
];

/// What was in the files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PairCounts {
    /// Files.
    pub files: u64,
    /// Pairs of two different genes.
    pub pairs: u64,
    /// Pairs of a gene with itself, which say nothing of it and are left out.
    pub with_itself: u64,
    /// Lines with nothing on them.
    pub blank_lines: u64,
}

/// The files that `paths` name: themselves, and all in a folder but hidden ones, by name.
///
/// # Errors
/// [`Error::Usage`] for a folder without a file; [`Error::Io`].
pub fn files(paths: &[PathBuf]) -> Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for path in paths {
        if !path.is_dir() {
            all.push(path.clone());
            continue;
        }
        let mut inside = Vec::new();
        for entry in fs::read_dir(path).map_err(Error::io("read the folder", path))? {
            let file = entry.map_err(Error::io("read the folder", path))?.path();
            let is_hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
            if file.is_file() && !is_hidden {
                inside.push(file);
            }
        }
        if inside.is_empty() {
            let found = format!("no file of pairs is in {}", path.display());
            return Err(Error::usage(found, "name a file, or a folder with files of two genes a line"));
        }
        inside.sort();
        all.append(&mut inside);
    }
    Ok(all)
}

/// Hands every pair of two different genes in `files` to `each`, in order. Text is UTF-8, or code page 1252 on lines that are not.
///
/// # Errors
/// [`Error::Input`] with file and line for one that has not two names, and for damaged gzip data; [`Error::Io`]; those of `each`.
pub fn read(files: &[PathBuf], mut each: impl FnMut(&str, &str) -> Result<()>) -> Result<PairCounts> {
    let mut counts = PairCounts::default();
    for path in files {
        counts.files += 1;
        let mut lines = Lines::open(path)?;
        let mut number = 0;
        while let Some(line) = lines.next_bytes()? {
            number += 1;
            let line = text(line);
            let mut fields = line.split_ascii_whitespace();
            match (fields.next(), fields.next(), fields.next()) {
                (None, ..) => counts.blank_lines += 1,
                (Some(one), Some(other), None) => {
                    check(path, number, one)?;
                    check(path, number, other)?;
                    if one == other {
                        counts.with_itself += 1;
                    } else {
                        counts.pairs += 1;
                        each(one, other)?;
                    }
                }
                (_, second, _) => {
                    let found = match second {
                        None => format!("one field, {:?}, where two genes are to be", shown(&line)),
                        _ => format!("{} fields, where two genes are to be", line.split_ascii_whitespace().count()),
                    };
                    let remedy = "write a pair a line, as GENEA GENEB, without a header or other columns";
                    return Err(Error::input(path, format!("line {number}"), found, remedy));
                }
            }
        }
    }
    Ok(counts)
}

fn check(path: &Path, number: u64, name: &str) -> Result<()> {
    let found = if name.len() > LONGEST_NAME {
        format!("a name of {} bytes", name.len())
    } else if name.contains(|letter: char| letter.is_control() || letter == '\u{fffd}' || letter.is_whitespace()) {
        format!("a name with a character that is no text, {:?}", shown(name))
    } else {
        return Ok(());
    };
    Err(Error::input(
        path,
        format!("line {number}"),
        found,
        "check the path: a file of pairs is text, two genes a line",
    ))
}

/// The beginning of a text, for a message.
fn shown(text: &str) -> String {
    text.trim().chars().take(40).collect()
}

fn text(line: &[u8]) -> Cow<'_, str> {
    let letter = |byte: &u8| match byte {
        0x80..0xa0 => CODE_PAGE_1252[usize::from(byte - 0x80)],
        _ => char::from(*byte),
    };
    match std::str::from_utf8(line) {
        Ok(text) => Cow::Borrowed(text),
        Err(_) => Cow::Owned(line.iter().map(letter).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gunzip::tests::gzip;

    fn read_all(contents: &[u8]) -> Result<(Vec<String>, PairCounts)> {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), contents).unwrap();
        let mut all = Vec::new();
        let counts = read(&[file.path().to_owned()], |one, other| {
            all.push(format!("{one}-{other}"));
            Ok(())
        })?;
        Ok((all, counts))
    }

    #[test]
    fn pairs_of_any_writing_are_read() {
        let (pairs, counts) = read_all(b"\xef\xbb\xbfTP53 MDM2\r\nA\tB\n\n  C   D  \nE E\n \t\nF G").unwrap();
        assert_eq!(pairs, ["TP53-MDM2", "A-B", "C-D", "F-G"]);
        assert_eq!(counts, PairCounts { files: 1, pairs: 4, with_itself: 1, blank_lines: 2 });
        // The same letter in UTF-8 and in code page 1252 is the same gene.
        let (pairs, _) = read_all("β-ä A\n".as_bytes()).unwrap();
        assert_eq!(pairs, ["β-ä-A"]);
        assert_eq!(read_all(b"\xe4\x80 A\n").unwrap().0, ["ä€-A"]);
        assert_eq!(read_all(&gzip(b"A B\nC D\n")).unwrap().0, ["A-B", "C-D"]);
        assert_eq!(read_all(b"").unwrap(), (vec![], PairCounts { files: 1, ..PairCounts::default() }));
    }

    #[test]
    fn what_is_no_pair_is_told_with_its_line() {
        for (contents, finding) in [
            (&b"A B\nC\n"[..], "line 2: one field, \"C\", where two genes are to be"),
            (b"A B\nC D 0.9\n", "line 2: 3 fields, where two genes are to be"),
            (b"A B\n\nA \x00B\n", "line 3: a name with a character that is no text"),
            (b"A \x81\n", "line 1: a name with a character that is no text"),
            (&[b"A ", &[b'x'; 5000][..]].concat(), "line 1: a name of 5000 bytes"),
            (&gzip(b"A B\nC D\n")[..20], "the compressed data ends too early"),
        ] {
            let error = read_all(contents).unwrap_err();
            assert!(error.to_string().contains(finding), "{error}\nnot {finding}");
            assert!(error.exit_code() == 2 && error.to_string().contains("what to do"), "{error}");
        }
    }

    #[test]
    fn a_folder_is_all_its_files_by_name() {
        let folder = tempfile::tempdir().unwrap();
        assert!(files(&[folder.path().to_owned()]).unwrap_err().to_string().contains("no file of pairs"));
        for name in ["b.txt", "a.txt.gz", ".hidden"] {
            fs::write(folder.path().join(name), "A B\n").unwrap();
        }
        fs::create_dir(folder.path().join("c.txt")).unwrap();
        let all = files(&[folder.path().to_owned(), "other".into()]).unwrap();
        assert_eq!(all, [folder.path().join("a.txt.gz"), folder.path().join("b.txt"), "other".into()]);
    }
}
