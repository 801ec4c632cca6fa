//! Bases to integers and back: one trait, and the tokenizers of the families of models.
//!
//! | tokenizer | family | a token covers | a sequence |
//! | --- | --- | --- | --- |
//! | overlapping k-mers ([`Vocabulary`]) | DNABERT, BioNeMo | k bases, each token a base further | `[CLS] ... [SEP]` |
//! | [`blocks`] of six | Nucleotide Transformer | six bases, or one where six do not fit | `<cls> ...` |
//! | [`bpe`], pieces that were learnt | DNABERT-2, GENA-LM | 1 to some dozens of bases | `[CLS] ... [SEP]` |
//!
//! Each does to upper-case letters what its family's own program does. Sequences of bases are another thing than text: their lower
//! case (soft-masked repeats) counts as upper case for every tokenizer, as it always did for k-mers, where the programs of the
//! families would make unknown tokens of it.

use std::fmt::Debug;
use std::fs;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use crate::kmer::vocabulary::Vocabulary;
use crate::output::write_atomic;
use crate::{Error, Result};

pub mod blocks;
pub mod bpe;
mod bpe_file;
mod k_mers;
mod merges;
pub mod train;

/// The file of a vocabulary with one token a line.
pub const VOCABULARY_FILE: &str = "vocab.txt";
/// The file of the `tokenizers` library.
pub const TOKENIZER_FILE: &str = "tokenizer.json";
/// What transformers has to know beside them.
const SETTINGS_FILE: &str = "tokenizer_config.json";

/// The ids of tokens that stand for no bases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Specials {
    /// Fills up rows of other programs; here no token is ever padded.
    pub pad: i32,
    /// Bases that no other token covers.
    pub unk: i32,
    /// Begins every sequence.
    pub cls: i32,
    /// Ends every sequence, in families that have it.
    pub sep: Option<i32>,
    /// Hides a token.
    pub mask: i32,
}

impl Specials {
    /// Special tokens of a sequence: at its beginning and, where there is one, at its end.
    pub fn frame(&self) -> usize {
        1 + usize::from(self.sep.is_some())
    }
}

/// What stands between bases and a model.
#[expect(clippy::len_without_is_empty, reason = "a vocabulary is never empty")]
pub trait Tokenizer: Debug + Send + Sync {
    /// The special tokens.
    fn specials(&self) -> Specials;

    /// Number of tokens.
    fn len(&self) -> usize;

    /// The text of token `id`; `None` outside the vocabulary.
    fn token(&self, id: i32) -> Option<String>;

    /// Appends the ids of the tokens of `bases` to `ids`: ASCII letters, lower case counting as upper case. No special tokens
    /// stand around them.
    fn encode(&self, bases: &[u8], ids: &mut Vec<i32>);

    /// As [`Tokenizer::encode`], with the bases that each token covers.
    fn encode_with_spans(&self, bases: &[u8], ids: &mut Vec<i32>, spans: &mut Vec<Range<u32>>);

    /// Appends the ids of a text, as the family's own program reads it: lower case is as it is there, special tokens count by their
    /// names. None are put around it.
    fn encode_text(&self, text: &str, ids: &mut Vec<i32>);

    /// The fewest bases that become a token: k, which is also how many k-mers cover a base; 1 where tokens stand side by side.
    fn shortest(&self) -> usize {
        1
    }

    /// The most bases that `tokens` tokens can cover; `None` where only tokens can be counted.
    fn most_bases(&self, tokens: usize) -> Option<usize>;

    /// The name and the contents of each file that this tokenizer is saved as. transformers cuts rows at `most_tokens` tokens, special
    /// ones included.
    fn files(&self, most_tokens: Option<usize>) -> Vec<(&'static str, Vec<u8>)>;

    /// The vocabulary, if this is the tokenizer of overlapping k-mers.
    fn k_mers(&self) -> Option<&Vocabulary> {
        None
    }

    /// Appends a whole sequence to `ids`: the tokens of `bases` between those that begin and end it.
    fn encode_framed(&self, bases: &[u8], ids: &mut Vec<i32>) {
        let Specials { cls, sep, .. } = self.specials();
        ids.push(cls);
        self.encode(bases, ids);
        ids.extend(sep);
    }

    /// What its tokens are, in words.
    fn describe(&self) -> String;

    /// A copy that may be shared.
    fn shared(&self) -> Arc<dyn Tokenizer>;
}

impl PartialEq for dyn Tokenizer {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.files(None) == other.files(None)
    }
}

/// Reads the tokenizer of a model's folder: that of its `vocab.txt`, or of its `tokenizer.json` where it has no other file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] with the file and the place for a folder without either, and for what none of the families has.
pub fn read(folder: &Path) -> Result<Arc<dyn Tokenizer>> {
    let [vocabulary, tokenizer] = [VOCABULARY_FILE, TOKENIZER_FILE].map(|name| folder.join(name));
    match (vocabulary.exists(), tokenizer.exists()) {
        (true, _) if blocks::Blocks::is_at(&vocabulary)? => Ok(Arc::new(blocks::Blocks::read(&vocabulary)?)),
        (true, _) => Ok(Arc::new(Vocabulary::read(vocabulary)?)),
        (false, true) if bpe::Bpe::is_at(&tokenizer)? => Ok(Arc::new(bpe::Bpe::read(&tokenizer)?)),
        (false, true) => Ok(Arc::new(Vocabulary::read_tokenizer(tokenizer)?)),
        (false, false) => Err(Error::input(
            folder,
            "",
            "no vocab.txt and no tokenizer.json, which say what each token means",
            "copy the one that the model was trained with into the folder (DNABERT has one for each k)",
        )),
    }
}

/// Writes the files of a tokenizer into `folder`, and removes one that an earlier model left there and that would be read instead.
///
/// # Errors
/// [`Error::Io`].
pub fn write(tokenizer: &dyn Tokenizer, folder: &Path, most_tokens: Option<usize>) -> Result<()> {
    let files = tokenizer.files(most_tokens);
    for name in [VOCABULARY_FILE, TOKENIZER_FILE] {
        let path = folder.join(name);
        if !files.iter().any(|(file, _)| *file == name) && path.exists() {
            fs::remove_file(&path).map_err(Error::io("remove", &path))?;
        }
    }
    files.iter().try_for_each(|(name, contents)| write_atomic(folder.join(name), contents))
}

/// `tokenizer_config.json` of these settings, which transformers cuts rows by.
fn settings(mut settings: serde_json::Value, most_tokens: Option<usize>) -> (&'static str, Vec<u8>) {
    if let Some(most) = most_tokens {
        settings["model_max_length"] = most.into();
    }
    (SETTINGS_FILE, format!("{settings:#}\n").into_bytes())
}

/// The table of letters in which lower case counts as upper case, where `exact` knows upper case only.
fn fold_case(exact: &[u8; 256]) -> [u8; 256] {
    let mut folded = *exact;
    for letter in b'a'..=b'z' {
        folded[usize::from(letter)] = exact[usize::from(letter.to_ascii_uppercase())];
    }
    folded
}
