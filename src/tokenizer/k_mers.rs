//! Overlapping k-mers ([`Vocabulary`]) as a tokenizer.

use std::fmt::Write;
use std::ops::Range;
use std::sync::Arc;

use serde_json::json;

use super::{Specials, Tokenizer, VOCABULARY_FILE, settings};
use crate::kmer::vocabulary::{CLS, MASK, PAD, SEP, UNK, Vocabulary};

impl Tokenizer for Vocabulary {
    fn specials(&self) -> Specials {
        Specials { pad: PAD, unk: UNK, cls: CLS, sep: Some(SEP), mask: MASK }
    }

    fn len(&self) -> usize {
        Self::len(self)
    }

    fn token(&self, id: i32) -> Option<String> {
        Self::token(self, id)
    }

    fn encode(&self, bases: &[u8], ids: &mut Vec<i32>) {
        Self::encode(self, bases, ids);
    }

    fn encode_with_spans(&self, bases: &[u8], ids: &mut Vec<i32>, spans: &mut Vec<Range<u32>>) {
        let before = ids.len();
        Self::encode(self, bases, ids);
        spans.extend((0..(ids.len() - before) as u32).map(|start| start..start + self.k() as u32));
    }

    fn encode_text(&self, text: &str, ids: &mut Vec<i32>) {
        self.encode_sentence(text, ids);
    }

    fn shortest(&self) -> usize {
        self.k()
    }

    fn most_bases(&self, tokens: usize) -> Option<usize> {
        Some(if tokens == 0 { 0 } else { tokens + self.k() - 1 })
    }

    fn files(&self, most_tokens: Option<usize>) -> Vec<(&'static str, Vec<u8>)> {
        let mut lines = String::new();
        for token in (0..self.len() as i32).filter_map(|id| self.token(id)) {
            let _ = writeln!(lines, "{token}");
        }
        // Without these settings transformers lower-cases k-mers, and then knows none of them.
        let of_bert = json!({
            "tokenizer_class": "BertTokenizer",
            "do_lower_case": false,
            "tokenize_chinese_chars": false,
            "pad_token": "[PAD]",
            "unk_token": "[UNK]",
            "cls_token": "[CLS]",
            "sep_token": "[SEP]",
            "mask_token": "[MASK]",
        });
        vec![(VOCABULARY_FILE, lines.into_bytes()), settings(of_bert, most_tokens)]
    }

    fn k_mers(&self) -> Option<&Vocabulary> {
        Some(self)
    }

    fn describe(&self) -> String {
        format!("overlapping {}-mers", self.k())
    }

    fn shared(&self) -> Arc<dyn Tokenizer> {
        Arc::new(self.clone())
    }
}
