//! Pieces of DNA that were learnt (byte-pair encoding), as a `tokenizer.json` of the `tokenizers` library has them: DNABERT-2, GENA-LM.
//!
//! Zhou et al., "DNABERT-2", ICLR 2024; Fishman et al., "GENA-LM", Nucleic Acids Research 2025. A sequence is one word, however long
//! it is (`merges.rs`). A letter that is no token is one unknown token, and nothing merges across it: N and the other codes
//! of unknown bases in DNABERT-2. GENA-LM has letters for most of them, and writes ten N or more as one `-`.
//!
//! The file is kept as it was read, and written again byte for byte.

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::merges::Merges;
use super::{Specials, TOKENIZER_FILE, Tokenizer, bpe_file, fold_case, settings};
use crate::Result;

/// The letter of a byte that is no token.
pub(super) const FOREIGN: u8 = u8::MAX;

/// Long runs of one letter, which become one token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gaps {
    /// The letter that runs.
    pub letter: u8,
    /// Letters in the shortest such run.
    pub least: usize,
    /// What is written in its place.
    pub written: u8,
}

/// What a `tokenizer.json` says.
#[derive(Debug)]
pub(super) struct Contents {
    pub bytes: Vec<u8>,
    pub specials: Specials,
    /// The letters of [`Merges`], which are ASCII.
    pub letters: Vec<u8>,
    pub merges: Merges,
    /// The id of each token of the merges.
    pub ids: Vec<i32>,
    /// The text of each id.
    pub texts: Vec<String>,
    /// Tokens that stand for themselves in a text: before anything else is looked at.
    pub added: Vec<(String, i32)>,
    pub gaps: Option<Gaps>,
    /// Whether white space at the ends of a text is dropped, and whether it is everywhere.
    pub strips: bool,
    pub splits: bool,
}

/// Byte-pair encoding.
#[derive(Clone, Debug)]
pub struct Bpe {
    contents: Arc<Contents>,
    /// The letter of each byte of a text.
    exact: [u8; 256],
    /// The letter of each byte of a sequence.
    folded: [u8; 256],
}

impl Bpe {
    /// Whether the `tokenizer.json` at `path` is of this kind.
    pub(super) fn is_at(path: &Path) -> Result<bool> {
        bpe_file::is_at(path)
    }

    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`crate::Error::Io`]; [`crate::Error::Input`] with the entry for what is no file of the `tokenizers` library, and for settings
    /// that DNABERT-2 and GENA-LM do not have.
    pub fn read(path: &Path) -> Result<Self> {
        Ok(Self::new(bpe_file::read(path)?))
    }

    pub(super) fn new(contents: Contents) -> Self {
        let mut exact = [FOREIGN; 256];
        for (number, &letter) in (0..).zip(&contents.letters) {
            exact[usize::from(letter)] = number;
        }
        Self { contents: Arc::new(contents), folded: fold_case(&exact), exact }
    }

    /// Calls `sink` with the id and the place of each token.
    fn each(&self, text: &[u8], letters: &[u8; 256], mut sink: impl FnMut(i32, Range<usize>)) {
        let Contents { merges, ids, gaps, specials, .. } = &*self.contents;
        let (mut word, mut tokens) = (Vec::new(), Vec::new());
        let mut start = 0;
        while start < text.len() {
            // A word ends before a letter that is no token, and before a gap.
            word.clear();
            word.extend(text[start..].iter().map(|&byte| letters[usize::from(byte)]).take_while(|&it| it != FOREIGN));
            let mut rest = word.as_slice();
            while !rest.is_empty() {
                let gap = gaps.map_or(rest.len()..rest.len(), |gaps| next_gap(rest, gaps));
                merges.encode(&rest[..gap.start], &mut tokens);
                for &token in &tokens {
                    let end = start + merges.length(token);
                    sink(ids[token as usize], start..end);
                    start = end;
                }
                if let Some(gaps) = gaps.filter(|_| !gap.is_empty()) {
                    sink(ids[usize::from(gaps.written)], start..start + gap.len());
                    start += gap.len();
                }
                rest = &rest[gap.end..];
            }
            if start < text.len() {
                // A character, of however many bytes.
                let end = start + 1 + text[start + 1..].iter().take_while(|&&byte| byte & 0xC0 == 0x80).count();
                sink(specials.unk, start..end);
                start = end;
            }
        }
    }
}

/// The first run of a letter in a word that is long enough to be written as one token; nothing, at the end, if there is none.
fn next_gap(word: &[u8], gaps: Gaps) -> Range<usize> {
    let mut start = 0;
    while let Some(next) = word[start..].iter().position(|&letter| letter == gaps.letter) {
        start += next;
        let length = word[start..].iter().take_while(|&&letter| letter == gaps.letter).count();
        if length >= gaps.least {
            return start..start + length;
        }
        start += length;
    }
    word.len()..word.len()
}

impl Tokenizer for Bpe {
    fn specials(&self) -> Specials {
        self.contents.specials
    }

    fn len(&self) -> usize {
        self.contents.texts.len()
    }

    fn token(&self, id: i32) -> Option<String> {
        self.contents.texts.get(usize::try_from(id).ok()?).cloned()
    }

    fn encode(&self, bases: &[u8], ids: &mut Vec<i32>) {
        self.each(bases, &self.folded, |id, _| ids.push(id));
    }

    fn encode_with_spans(&self, bases: &[u8], ids: &mut Vec<i32>, spans: &mut Vec<Range<u32>>) {
        self.each(bases, &self.folded, |id, span| {
            ids.push(id);
            spans.push(span.start as u32..span.end as u32);
        });
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<i32>) {
        let Contents { added, strips, splits, .. } = &*self.contents;
        let encode = |piece: &str, ids: &mut Vec<i32>| {
            let piece = if *strips { piece.trim() } else { piece };
            if *splits {
                piece.split_whitespace().for_each(|word| self.each(word.as_bytes(), &self.exact, |id, _| ids.push(id)));
            } else {
                self.each(piece.as_bytes(), &self.exact, |id, _| ids.push(id));
            }
        };
        // The leftmost special token that is written out, of several there the longest.
        let named = |text: &str| {
            let found = added.iter().filter_map(|(name, id)| Some((text.find(name)?, usize::MAX - name.len(), *id)));
            found.min()
        };
        let mut rest = text;
        while let Some((start, reversed, id)) = named(rest) {
            encode(&rest[..start], ids);
            ids.push(id);
            rest = &rest[start + (usize::MAX - reversed)..];
        }
        encode(rest, ids);
    }

    fn most_bases(&self, _: usize) -> Option<usize> {
        None
    }

    fn files(&self, most_tokens: Option<usize>) -> Vec<(&'static str, Vec<u8>)> {
        let of_fast = json!({
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "pad_token": "[PAD]",
            "mask_token": "[MASK]",
        });
        vec![(TOKENIZER_FILE, self.contents.bytes.clone()), settings(of_fast, most_tokens)]
    }

    fn describe(&self) -> String {
        format!("{} pieces of byte-pair encoding", self.len())
    }

    fn shared(&self) -> Arc<dyn Tokenizer> {
        Arc::new(self.clone())
    }
}
