//! Nucleotide Transformer's tokenizer: blocks of six bases side by side.
//!
//! Dalla-Torre et al., "The Nucleotide Transformer", Nature Methods 2024, and the `EsmTokenizer` of transformers, whose vocabulary
//! these models have. Blocks are cut from the left; N stands alone and starts the cutting anew; up to five bases that are left over
//! in front of it, or at the end, are tokens of one base each. A run of letters that are none of A, C, G, T and N is one `<unk>`.
//! A sequence begins with `<cls>` and ends with nothing.
//!
//! A block's id is the first block's plus its base-4 number, A=0 T=1 C=2 G=3, the first base most significant. Behind the 4,096
//! blocks come A, T, C, G and N. The second version of the models has two special tokens more, `<eos>` and `<bos>`, which it never uses.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{Specials, Tokenizer, VOCABULARY_FILE, fold_case, settings};
use crate::kmer::lines::Lines;
use crate::{Error, Result};

/// Bases in a block.
const BLOCK: usize = 6;
/// Blocks of A, C, G and T.
const BLOCKS: usize = 1 << (2 * BLOCK);
/// Bases in the order of their digits, which is that of the tokens of one base; N behind them.
const BASES: &[u8; 5] = b"ATCGN";
/// The digit of N.
const N: u8 = 4;
/// The digit of a byte that is no base.
const FOREIGN: u8 = 5;

/// Which of the two vocabularies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 500m-human-ref, 500m-1000g, 2.5b-1000g, 2.5b-multi-species.
    One,
    /// v2-50m to v2-500m multi-species.
    Two,
}

impl Version {
    fn specials(self) -> &'static [&'static str] {
        match self {
            Self::One => &["<unk>", "<pad>", "<mask>", "<cls>"],
            Self::Two => &["<unk>", "<pad>", "<mask>", "<cls>", "<eos>", "<bos>"],
        }
    }
}

/// Blocks of six bases.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    version: Version,
    /// The digit of each byte of a text.
    exact: [u8; 256],
    /// The digit of each byte of a sequence.
    folded: [u8; 256],
}

impl Blocks {
    /// The vocabulary of a version.
    pub fn new(version: Version) -> Self {
        let mut exact = [FOREIGN; 256];
        for (digit, &base) in (0..).zip(BASES) {
            exact[usize::from(base)] = digit;
        }
        Self { version, folded: fold_case(&exact), exact }
    }

    /// Which vocabulary it is.
    pub fn version(&self) -> Version {
        self.version
    }

    /// Whether the `vocab.txt` at `path` begins as those of this tokenizer do.
    pub(super) fn is_at(path: &Path) -> Result<bool> {
        Ok(Lines::open(path)?.next_line()? == Some("<unk>"))
    }

    /// Reads a `vocab.txt`, which says the version.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Input`] with the line of the first token that is not where it should be.
    pub fn read(path: &Path) -> Result<Self> {
        let remedy = "use the vocab.txt of a Nucleotide Transformer: 4,105 tokens (v1) or 4,107 (v2)";
        let wrong = |line: usize, found: String| Error::input(path, format!("line {line}"), found, remedy);
        let mut lines = Lines::open(path)?;
        let (mut read, mut blocks) = (0, Self::new(Version::One));
        // A line more than the longest has shows that there is one too many; released files end without a line feed.
        while let Some(line) = lines.next_line()? {
            if read == Version::One.specials().len() && line == "<eos>" {
                blocks = Self::new(Version::Two);
            }
            match blocks.token(read as i32) {
                Some(expected) if expected == line => read += 1,
                Some(expected) => return Err(wrong(read + 1, format!("{line:?} where {expected} should be"))),
                None => return Err(wrong(read + 1, format!("{line:?} after the last token"))),
            }
        }
        if read < blocks.len() {
            return Err(wrong(read + 1, format!("the file ends after {read} of {} tokens", blocks.len())));
        }
        Ok(blocks)
    }

    /// Calls `sink` with the id and the place of each token.
    fn each(&self, letters: &[u8], digits: &[u8; 256], mut sink: impl FnMut(i32, Range<usize>)) {
        let specials = self.version.specials().len();
        let digit = |place: usize| digits[usize::from(letters[place])];
        let mut at = 0;
        while at < letters.len() {
            let start = at;
            if let Some(block) = letters.get(at..at + BLOCK) {
                let (mut number, mut all) = (0, 0);
                for &letter in block {
                    let digit = digits[usize::from(letter)];
                    number = number << 2 | usize::from(digit & 3);
                    all |= digit;
                }
                if all < N {
                    at += BLOCK;
                    sink((specials + number) as i32, start..at);
                    continue;
                }
            }
            match digit(at) {
                FOREIGN => {
                    while at < letters.len() && digit(at) == FOREIGN {
                        at += 1;
                    }
                    sink(self.specials().unk, start..at);
                }
                base => {
                    at += 1;
                    sink((specials + BLOCKS + usize::from(base)) as i32, start..at);
                }
            }
        }
    }
}

impl Tokenizer for Blocks {
    fn specials(&self) -> Specials {
        Specials { unk: 0, pad: 1, mask: 2, cls: 3, sep: None }
    }

    fn len(&self) -> usize {
        self.version.specials().len() + BLOCKS + BASES.len()
    }

    fn token(&self, id: i32) -> Option<String> {
        let id = usize::try_from(id).ok()?;
        let specials = self.version.specials();
        if let Some(special) = specials.get(id) {
            return Some((*special).to_owned());
        }
        let number = id - specials.len();
        if number < BLOCKS {
            return Some((0..BLOCK).rev().map(|place| char::from(BASES[number >> (2 * place) & 3])).collect());
        }
        BASES.get(number - BLOCKS).map(|base| char::from(*base).to_string())
    }

    fn encode(&self, bases: &[u8], ids: &mut Vec<i32>) {
        ids.reserve(bases.len() / BLOCK + BLOCK);
        self.each(bases, &self.folded, |id, _| ids.push(id));
    }

    fn encode_with_spans(&self, bases: &[u8], ids: &mut Vec<i32>, spans: &mut Vec<Range<u32>>) {
        self.each(bases, &self.folded, |id, span| {
            ids.push(id);
            spans.push(span.start as u32..span.end as u32);
        });
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<i32>) {
        let encode = |piece: &str, ids: &mut Vec<i32>| {
            for word in piece.split_whitespace() {
                self.each(word.as_bytes(), &self.exact, |id, _| ids.push(id));
            }
        };
        let mut rest = text;
        // The leftmost special token that is written out; none is the beginning of another.
        let named = |text: &str| {
            let found =
                (0..).zip(self.version.specials()).filter_map(|(id, name)| Some((text.find(name)?, id, name.len())));
            found.min()
        };
        while let Some((start, id, length)) = named(rest) {
            encode(&rest[..start], ids);
            ids.push(id);
            rest = &rest[start + length..];
        }
        encode(rest, ids);
    }

    fn most_bases(&self, tokens: usize) -> Option<usize> {
        Some(BLOCK * tokens)
    }

    fn files(&self, most_tokens: Option<usize>) -> Vec<(&'static str, Vec<u8>)> {
        let tokens: Vec<String> = (0..self.len() as i32).filter_map(|id| self.token(id)).collect();
        // Where nothing is said of them, transformers ends sequences with an `<eos>`, which it appends to a vocabulary without one.
        let of_esm = json!({
            "tokenizer_class": "EsmTokenizer",
            "unk_token": "<unk>",
            "pad_token": "<pad>",
            "mask_token": "<mask>",
            "cls_token": "<cls>",
            "eos_token": null,
            "bos_token": null,
        });
        vec![(VOCABULARY_FILE, (tokens.join("\n") + "\n").into_bytes()), settings(of_esm, most_tokens)]
    }

    fn describe(&self) -> String {
        let version = if self.version == Version::One { "v1" } else { "v2" };
        format!("blocks of six bases (Nucleotide Transformer {version})")
    }

    fn shared(&self) -> Arc<dyn Tokenizer> {
        Arc::new(self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(version: Version, text: &str) -> Vec<i32> {
        let blocks = Blocks::new(version);
        let mut ids = vec![blocks.specials().cls];
        blocks.encode_text(text, &mut ids);
        ids
    }

    #[test]
    fn what_transformers_makes_of_it() {
        for (text, expected) in [
            ("ACGTGTACGTGCACGGACGACTAGTCAGCA", &[3, 737, 738, 758, 3223, 1596][..]),
            ("ACGTGTACNTGCACGGANCGACTAGTCTGA", &[3, 737, 4100, 4102, 4104, 1935, 4103, 4100, 4104, 2856, 3488]),
            ("ACCTGA<mask>TTCTGAGTC", &[3, 672, 2, 1440, 4103, 4101, 4102]),
            ("ACGTG", &[3, 4100, 4102, 4103, 4101, 4103]),
            ("ACGTRYACGTGT", &[3, 4100, 4102, 4103, 4101, 0, 737]),
            ("ACGTGTacgtgt", &[3, 737, 0]),
            ("  ACG xx yy<mask> TGT  ", &[3, 4100, 4102, 4103, 0, 0, 2, 4101, 4103, 4101]),
            ("<eos>ACGTGT<bos>x<cls>", &[3, 0, 737, 0, 3]),
            ("a<mas<mask>b", &[3, 0, 2, 0]),
            ("x\u{e9} \u{e9}y Ny", &[3, 0, 0, 4104, 0]),
            ("", &[3]),
        ] {
            assert_eq!(encode(Version::One, text), expected, "{text:?}");
        }
        assert_eq!(encode(Version::Two, "<eos>ACGTGT<bos>xNA"), [3, 4, 739, 5, 0, 4106, 4102]);
    }

    #[test]
    fn sequences_have_no_case_and_spans_cover_them() {
        let blocks = Blocks::new(Version::One);
        let (mut ids, mut spans, mut plain) = (Vec::new(), Vec::new(), Vec::new());
        blocks.encode_with_spans(b"acgtgTRyACnG", &mut ids, &mut spans);
        blocks.encode(b"acgtgTRyACnG", &mut plain);
        assert_eq!((&ids, &plain), (&vec![737, 0, 4100, 4102, 4104, 4103], &ids));
        assert_eq!(spans, [0..6, 6..8, 8..9, 9..10, 10..11, 11..12]);
        let tokens: Vec<String> = ids.iter().filter_map(|&id| blocks.token(id)).collect();
        assert_eq!(tokens, ["ACGTGT", "<unk>", "A", "C", "N", "G"]);
    }

    #[test]
    fn files_are_read_back_and_checked() {
        for (version, tokens, bytes) in [(Version::One, 4105, 28_707), (Version::Two, 4107, 28_719)] {
            let folder = tempfile::tempdir().unwrap();
            let blocks = Blocks::new(version);
            assert_eq!(Tokenizer::len(&blocks), tokens);
            super::super::write(&blocks, folder.path(), Some(1000)).unwrap();
            let path = folder.path().join(VOCABULARY_FILE);
            let text = std::fs::read_to_string(&path).unwrap();
            assert_eq!(text.len(), bytes, "the size of the released file is 28.7 kB");
            assert_eq!(Blocks::read(&path).unwrap(), blocks);
            assert!(*super::super::read(folder.path()).unwrap() == *blocks.shared());
            let settings = std::fs::read_to_string(folder.path().join("tokenizer_config.json")).unwrap();
            assert!(
                settings.contains("\"eos_token\": null") && settings.contains("\"model_max_length\": 1000"),
                "{settings}"
            );
            let error = |text: &str| {
                std::fs::write(&path, text).unwrap();
                Blocks::read(&path).unwrap_err().to_string()
            };
            assert!(
                error(&text.replace("AAAAAT\nAAAAAC", "AAAAAC\nAAAAAT")).contains("\"AAAAAC\" where AAAAAT should be")
            );
            assert!(error(text.trim_end().trim_end_matches('N')).contains("the file ends after"));
            assert!(error(&(text.clone() + "X\n")).contains("\"X\" after the last token"));
        }
    }
}
