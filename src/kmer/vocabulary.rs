//! DNABERT's vocabulary: five special tokens, then every k-mer in the order of its base-4 number.
//!
//! Ji, Zhou, Liu, Davuluri, "DNABERT", Bioinformatics 2021. A k-mer's id is `5 + number`, where the first base is the
//! most significant digit. DNABERT counts A, T, C, G; BioNeMo counts A, C, G, T. The two are not interchangeable, so
//! a model's `vocab.txt` is always read back and decides.

use std::fmt::Write;
use std::ops::{Range, RangeInclusive};
use std::path::Path;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::lines::Lines;
use crate::output::write_atomic;
use crate::small_file;
use crate::{Error, Result};

/// Id of `[PAD]`.
pub const PAD: i32 = 0;
/// Id of `[UNK]`: a k-mer with anything but A, C, G, T in it.
pub const UNK: i32 = 1;
/// Id of `[CLS]`, the first token of a sequence.
pub const CLS: i32 = 2;
/// Id of `[SEP]`, the last token of a sequence.
pub const SEP: i32 = 3;
/// Id of `[MASK]`.
pub const MASK: i32 = 4;

const SPECIAL_TOKENS: [&str; 5] = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"];
const SPECIALS: usize = SPECIAL_TOKENS.len();
const SUPPORTED_K: RangeInclusive<usize> = 3..=6;
/// The digit of a byte that is no base.
const NO_BASE: u8 = 4;

/// Which digit each base has in a k-mer's base-4 number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum BaseOrder {
    /// A=0 T=1 C=2 G=3 (DNABERT).
    #[default]
    Atcg,
    /// A=0 C=1 G=2 T=3 (BioNeMo).
    Acgt,
}

impl BaseOrder {
    fn bases(self) -> [u8; 4] {
        match self {
            Self::Atcg => *b"ATCG",
            Self::Acgt => *b"ACGT",
        }
    }
}

/// A k-mer vocabulary, k = 3 to 6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vocabulary {
    k: usize,
    order: BaseOrder,
    /// Digit of each byte; lower case counts as its base, [`NO_BASE`] is anything but A, C, G, T.
    digits: [u8; 256],
    /// Digit of each `.2bit` code (T=0 C=1 A=2 G=3).
    digits_of_codes: [u8; 4],
}

impl Vocabulary {
    /// The vocabulary of all k-mers in `order`.
    ///
    /// # Errors
    /// [`Error::Usage`] unless k is 3, 4, 5 or 6.
    pub fn new(k: usize, order: BaseOrder) -> Result<Self> {
        if !SUPPORTED_K.contains(&k) {
            return Err(Error::usage(format!("k = {k}"), "choose k = 3, 4, 5 or 6"));
        }
        let mut digits = [NO_BASE; 256];
        for (digit, base) in (0..).zip(order.bases()) {
            digits[usize::from(base)] = digit;
            digits[usize::from(base.to_ascii_lowercase())] = digit;
        }
        // RNA's U is its T.
        (digits[usize::from(b'U')], digits[usize::from(b'u')]) = (digits[usize::from(b'T')], digits[usize::from(b't')]);
        let digits_of_codes = b"TCAG".map(|base| digits[usize::from(base)]);
        Ok(Self { k, order, digits, digits_of_codes })
    }

    /// Reads a `vocab.txt`; k and the base order are what the file says.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Input`] with the line of the first token that is not where it should be.
    pub fn read(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let largest = SPECIALS + (1 << (2 * SUPPORTED_K.end()));
        let mut tokens = Vec::new();
        let mut lines = Lines::open(path)?;
        while tokens.len() <= largest {
            let Some(line) = lines.next_line()? else { break };
            tokens.push(line.to_owned());
        }
        Self::of_tokens(path, "line", &tokens)
    }

    /// Reads the tokens of a `tokenizer.json`, which is all that newer versions of transformers save.
    ///
    /// # Errors
    /// As [`Vocabulary::read`], with the number of the token.
    pub fn read_tokenizer(path: impl AsRef<Path>) -> Result<Self> {
        let path = path.as_ref();
        let wrong =
            |found: &str| Error::input(path, "model.vocab", found, "copy the model's vocab.txt into the folder");
        let json: Value = serde_json::from_str(&small_file::read(path)?).map_err(|error| wrong(&error.to_string()))?;
        let vocabulary = json["model"]["vocab"].as_object().ok_or_else(|| wrong("no table of tokens"))?;
        let mut tokens = vec![String::new(); vocabulary.len()];
        for (token, id) in vocabulary {
            let place = id.as_u64().and_then(|id| tokens.get_mut(usize::try_from(id).ok()?));
            *place.ok_or_else(|| wrong("ids that are not 0, 1, 2 and so on"))? = token.clone();
        }
        Self::of_tokens(path, "token", &tokens)
    }

    /// The vocabulary that these are the tokens of, each with its id as its place.
    fn of_tokens(path: &Path, unit: &str, tokens: &[String]) -> Result<Self> {
        let remedy = "use a vocab.txt of DNABERT or BioNeMo: [PAD] [UNK] [CLS] [SEP] [MASK], then all k-mers of \
                      k = 3..6 in the order of A,T,C,G or A,C,G,T";
        let wrong = |number: usize, found: String| Error::input(path, format!("{unit} {number}"), found, remedy);
        let (Some(first), Some(second)) = (tokens.get(SPECIALS), tokens.get(SPECIALS + 1)) else {
            return Err(wrong(tokens.len() + 1, "the file ends before the first k-mers".into()));
        };
        if !SUPPORTED_K.contains(&first.len()) {
            return Err(wrong(SPECIALS + 1, format!("{first:?} is no k-mer of 3 to 6 bases")));
        }
        let order = if second.ends_with('C') { BaseOrder::Acgt } else { BaseOrder::Atcg };
        let vocabulary = Self::new(first.len(), order)?;
        for (id, token) in tokens.iter().enumerate() {
            match vocabulary.token(id as i32) {
                Some(expected) if expected == *token => {}
                Some(expected) => return Err(wrong(id + 1, format!("{token:?} where {expected} should be"))),
                None => return Err(wrong(id + 1, format!("{token:?} after the last {}-mer", vocabulary.k))),
            }
        }
        if tokens.len() < vocabulary.len() {
            let found = format!("the file ends after {} of {} tokens", tokens.len(), vocabulary.len());
            return Err(wrong(tokens.len() + 1, found));
        }
        Ok(vocabulary)
    }

    /// Writes `vocab.txt`: one token a line, the line number minus one is the id.
    ///
    /// # Errors
    /// [`Error::Io`] if the file cannot be written.
    pub fn write(&self, path: impl AsRef<Path>) -> Result<()> {
        let mut text = String::new();
        for token in (0..self.len() as i32).filter_map(|id| self.token(id)) {
            let _ = writeln!(text, "{token}");
        }
        write_atomic(path, text)
    }

    /// Number of tokens: 4^k + 5.
    #[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
    pub fn len(&self) -> usize {
        SPECIALS + (1 << (2 * self.k))
    }

    /// Bases in a k-mer.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The order of the bases.
    pub fn order(&self) -> BaseOrder {
        self.order
    }

    /// The digits (0 to 3) that the codes of a `.2bit` genome, T, C, A and G, have in a k-mer's number.
    pub fn digits_of_codes(&self) -> [u8; 4] {
        self.digits_of_codes
    }

    /// The text of token `id`; `None` outside the vocabulary.
    pub fn token(&self, id: i32) -> Option<String> {
        let id = usize::try_from(id).ok().filter(|&id| id < self.len())?;
        if id < SPECIALS {
            return Some(SPECIAL_TOKENS[id].to_owned());
        }
        let bases = self.order.bases();
        Some((0..self.k).rev().map(|place| char::from(bases[(id - SPECIALS) >> (2 * place) & 3])).collect())
    }

    /// Appends the ids of all k-mers of `bases` (`bases.len() - k + 1` of them, none for fewer than k bases) to `out`.
    pub fn encode(&self, bases: &[u8], out: &mut Vec<i32>) {
        let (head, tail) = bases.split_at(bases.len().min(self.k - 1));
        let mut roll = Roll::new(self.k);
        for &base in head {
            roll.push(self.digits[usize::from(base)]);
        }
        out.extend(tail.iter().map(|&base| roll.push(self.digits[usize::from(base)])));
    }

    /// Appends the ids of the k-mers of DNABERT's text, separated by white space, to `out`. Special tokens count by
    /// their names; whatever is not in the vocabulary is [`UNK`].
    pub fn encode_sentence(&self, sentence: &str, out: &mut Vec<i32>) {
        out.extend(sentence.split_ascii_whitespace().map(|token| self.id(token)));
    }

    /// The id of one token; [`UNK`] if it is not in the vocabulary.
    pub fn id(&self, token: &str) -> i32 {
        if token.len() == self.k {
            let mut roll = Roll::new(self.k);
            return token.bytes().fold(UNK, |_, base| roll.push(self.digits[usize::from(base)]));
        }
        SPECIAL_TOKENS.iter().position(|special| *special == token).map_or(UNK, |id| id as i32)
    }

    /// Writes the ids of the k-mers in `range` of a `.2bit` sequence (four bases a byte, T=0 C=1 A=2 G=3, the first in
    /// the high bits) to `out`, which holds `range.len() - k + 1` ids. With `reverse_complement`, the k-mers are those
    /// of the other strand, read in its direction. The range holds no N and at least k bases.
    pub(super) fn encode_packed(&self, packed: &[u8], range: Range<usize>, reverse_complement: bool, out: &mut [i32]) {
        debug_assert_eq!(out.len() + self.k - 1, range.len());
        let digit = |place: usize, complement: u8| {
            let code = packed[place / 4] >> (6 - 2 * (place % 4)) & 3;
            self.digits_of_codes[usize::from(code ^ complement)]
        };
        let mut roll = Roll::new(self.k);
        // T and A, C and G differ in the higher bit of the code.
        if reverse_complement {
            roll.fill(range.rev().map(|place| digit(place, 0b10)), out);
        } else {
            roll.fill(range.map(|place| digit(place, 0)), out);
        }
    }

    /// The bases of overlapping k-mers: `ids.len() + k - 1` of them. [`CLS`], [`SEP`] and [`PAD`] are left out; a base
    /// that no k-mer knows (under [`UNK`], [`MASK`] or an id outside the vocabulary) is N, and where two k-mers
    /// disagree the first one counts.
    pub fn decode(&self, ids: &[i32]) -> Vec<u8> {
        let bases = self.order.bases();
        let kept = || ids.iter().filter(|id| ![PAD, CLS, SEP].contains(id));
        let count = kept().count();
        let mut decoded = vec![b'N'; if count == 0 { 0 } else { count + self.k - 1 }];
        for (start, &id) in kept().enumerate() {
            let Some(number) =
                usize::try_from(id).ok().filter(|&id| id < self.len()).and_then(|id| id.checked_sub(SPECIALS))
            else {
                continue;
            };
            for (place, base) in decoded[start..start + self.k].iter_mut().enumerate() {
                if *base == b'N' {
                    *base = bases[number >> (2 * (self.k - 1 - place)) & 3];
                }
            }
        }
        decoded
    }
}

/// The base-4 number of the last k bases.
struct Roll {
    k: u32,
    number: u32,
    /// Bases since the last unknown one.
    known: u32,
}

impl Roll {
    fn new(k: usize) -> Self {
        Self { k: k as u32, number: 0, known: 0 }
    }

    /// Appends a base and returns the id of the k-mer that ends with it.
    #[inline(always)]
    fn push(&mut self, digit: u8) -> i32 {
        self.known = if digit == NO_BASE { 0 } else { self.known + 1 };
        self.number = (self.number << 2 | u32::from(digit & 3)) & ((1 << (2 * self.k)) - 1);
        if self.known >= self.k { SPECIALS as i32 + self.number as i32 } else { UNK }
    }

    #[inline(always)]
    fn fill(&mut self, mut digits: impl Iterator<Item = u8>, out: &mut [i32]) {
        for digit in digits.by_ref().take(self.k as usize - 1) {
            self.push(digit);
        }
        for (id, digit) in out.iter_mut().zip(digits) {
            *id = self.push(digit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vocabulary(k: usize, order: BaseOrder) -> Vocabulary {
        Vocabulary::new(k, order).unwrap()
    }

    fn encode(vocabulary: &Vocabulary, bases: &[u8]) -> Vec<i32> {
        let mut ids = Vec::new();
        vocabulary.encode(bases, &mut ids);
        ids
    }

    #[test]
    fn ids_follow_the_order() {
        let dnabert = vocabulary(3, BaseOrder::Atcg);
        assert_eq!(dnabert.len(), 69);
        assert_eq!(encode(&dnabert, b"AAATCG"), [5, 6, 5 + 6, 5 + 16 + 8 + 3]);
        let bionemo = vocabulary(3, BaseOrder::Acgt);
        assert_eq!(encode(&bionemo, b"AACGT"), [6, 5 + 6, 5 + 16 + 8 + 3]);
        for id in 0..69 {
            assert_eq!(dnabert.id(&dnabert.token(id).unwrap()), id);
            assert_eq!(bionemo.id(&bionemo.token(id).unwrap()), id);
        }
        assert_eq!(dnabert.token(69), None);
        assert_eq!(dnabert.token(-1), None);
    }

    #[test]
    fn a_k_mer_with_anything_else_is_unknown_and_lower_case_is_not() {
        let vocabulary = vocabulary(3, BaseOrder::Atcg);
        assert_eq!(encode(&vocabulary, b"acgNACG"), [encode(&vocabulary, b"ACG")[0], 1, 1, 1, 5 + 8 + 3]);
        assert!(encode(&vocabulary, b"AC").is_empty());
        assert!(encode(&vocabulary, b"").is_empty());
        assert_eq!(encode(&vocabulary, &[0, 255, 4]), [UNK]);
    }

    #[test]
    fn sentences() {
        let vocabulary = vocabulary(3, BaseOrder::Atcg);
        let mut ids = Vec::new();
        vocabulary.encode_sentence("[CLS] AAA  aat ANA ACGT \u{e9}A [SEP]\r", &mut ids);
        assert_eq!(ids, [CLS, 5, 6, UNK, UNK, UNK, SEP]);
    }

    #[test]
    fn decoding_joins_what_is_known() {
        let vocabulary = vocabulary(3, BaseOrder::Acgt);
        let mut ids = vec![CLS];
        vocabulary.encode(b"ACGTTGCA", &mut ids);
        ids.push(SEP);
        assert_eq!(vocabulary.decode(&ids), b"ACGTTGCA");
        ids[1] = MASK;
        ids[6] = 5000;
        assert_eq!(vocabulary.decode(&ids), b"NCGTTGCN");
        assert_eq!(vocabulary.decode(&[CLS, SEP]), b"");
    }

    #[test]
    fn packed_bases_of_both_strands() {
        let bases = b"TTACGGTACCATGACTG";
        let code = |base: &u8| b"TCAG".iter().position(|other| other == base).unwrap() as u8;
        let packed: Vec<u8> = bases
            .chunks(4)
            .map(|four| four.iter().enumerate().fold(0, |byte, (place, base)| byte | code(base) << (6 - 2 * place)))
            .collect();
        let reverse: Vec<u8> = bases[2..15].iter().rev().map(|base| b"AGTC"[usize::from(code(base))]).collect();
        for (k, order) in [(3, BaseOrder::Atcg), (6, BaseOrder::Acgt)] {
            let vocabulary = vocabulary(k, order);
            let mut out = vec![0; 13 - k + 1];
            vocabulary.encode_packed(&packed, 2..15, false, &mut out);
            assert_eq!(out, encode(&vocabulary, &bases[2..15]));
            vocabulary.encode_packed(&packed, 2..15, true, &mut out);
            assert_eq!(out, encode(&vocabulary, &reverse));
        }
    }

    #[test]
    fn files_come_back_and_foreign_ones_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("vocab.txt");
        for order in [BaseOrder::Atcg, BaseOrder::Acgt] {
            for k in 3..=6 {
                vocabulary(k, order).write(&path).unwrap();
                assert_eq!(Vocabulary::read(&path).unwrap(), vocabulary(k, order));
            }
        }
        let good = std::fs::read_to_string(&path).unwrap();
        let refused = |text: &str| {
            std::fs::write(&path, text).unwrap();
            Vocabulary::read(&path).unwrap_err().to_string()
        };
        std::fs::write(&path, good.replace('\n', "\r\n")).unwrap();
        assert!(Vocabulary::read(&path).is_ok());
        assert!(refused("").contains("line 1"));
        assert!(refused(&good.replace("ACGTAC\n", "ACGTAX\n")).contains("\"ACGTAX\" where ACGTAC should be"));
        assert!(refused(&good.replace("[MASK]\n", "")).contains("line 5"));
        assert!(refused(&good[..good.len() - 7]).contains("line 4101: the file ends after 4100 of 4101 tokens"));
        assert!(refused(&format!("{good}AAAAAA\n")).contains("line 4102"));
        assert!(refused(&good.replace("AAAAAA\n", "AAAAAAA\n")).contains("line 6"));
        assert!(refused("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nA\nT\n").contains("line 6"));
    }

    #[test]
    fn only_3_to_6() {
        assert!(Vocabulary::new(2, BaseOrder::Atcg).is_err());
        assert!(Vocabulary::new(7, BaseOrder::Atcg).is_err());
    }
}
