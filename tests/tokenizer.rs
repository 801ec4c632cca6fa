//! Tokenizers against Hugging Face's programs, whose answers `tools/tokenizer_fixtures.py` wrote.

use std::collections::HashMap;
use std::path::Path;

use helixgrad::tokenizer::blocks::{Blocks, Version};
use helixgrad::tokenizer::bpe::Bpe;
use helixgrad::tokenizer::{self, Tokenizer};

const FIXTURES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/tokenizer");

fn bpe(name: &str) -> Bpe {
    Bpe::read(&Path::new(FIXTURES).join(name)).unwrap()
}

#[test]
fn texts_become_what_other_programs_make_of_them() {
    let expected = std::fs::read_to_string(Path::new(FIXTURES).join("expected.json")).unwrap();
    let expected: HashMap<String, Vec<(String, Vec<i32>)>> = serde_json::from_str(&expected).unwrap();
    let tokenizers: [(&str, Box<dyn Tokenizer>); 4] = [
        ("nt-v1", Box::new(Blocks::new(Version::One))),
        ("nt-v2", Box::new(Blocks::new(Version::Two))),
        ("dnabert2", Box::new(bpe("dnabert2.json"))),
        ("gena", Box::new(bpe("gena.json"))),
    ];
    for (name, tokenizer) in tokenizers {
        let specials = tokenizer.specials();
        assert!(expected[name].len() > 70);
        for (text, wanted) in &expected[name] {
            let mut ids = vec![specials.cls];
            tokenizer.encode_text(text, &mut ids);
            ids.extend(specials.sep);
            assert_eq!(ids, *wanted, "{name}: {text:?}");
            // A sequence is its upper case, without what no sequence has in it.
            let bases: String = text.chars().filter(char::is_ascii_alphabetic).collect();
            let (mut of_upper, mut of_bases, mut spans) = (Vec::new(), Vec::new(), Vec::new());
            tokenizer.encode_text(&bases.to_ascii_uppercase(), &mut of_upper);
            tokenizer.encode_with_spans(bases.as_bytes(), &mut of_bases, &mut spans);
            assert_eq!(of_bases, of_upper, "{name}: {bases:?}");
            let ends: Vec<u32> = spans.iter().map(|span| span.end).collect();
            let starts: Vec<u32> = [0].into_iter().chain(ends.iter().copied()).collect();
            assert!(
                spans.iter().zip(&starts).all(|(span, &start)| span.start == start && span.end > start),
                "{spans:?}"
            );
            assert_eq!(starts.last(), Some(&(bases.len() as u32)));
            for (&id, span) in of_bases.iter().zip(spans) {
                let token = tokenizer.token(id).unwrap();
                let covered = &bases[span.start as usize..span.end as usize];
                let is_gap =
                    token == "-" && covered.len() >= 10 && covered.bytes().all(|base| base.eq_ignore_ascii_case(&b'N'));
                assert!(id == specials.unk || is_gap || token.eq_ignore_ascii_case(covered), "{token} {covered}");
            }
        }
    }
}

#[test]
fn a_tokenizer_json_is_written_as_it_was_read() {
    for name in ["dnabert2.json", "gena.json"] {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("vocab.txt"), "left by another model").unwrap();
        let read = bpe(name);
        tokenizer::write(&read, folder.path(), Some(512)).unwrap();
        let bytes = |path: &Path| std::fs::read(path).unwrap();
        assert_eq!(bytes(&folder.path().join("tokenizer.json")), bytes(&Path::new(FIXTURES).join(name)));
        assert!(*tokenizer::read(folder.path()).unwrap() == *read.shared());
    }
}

#[test]
fn settings_that_no_model_has_are_told() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tokenizer.json");
    let text = std::fs::read_to_string(Path::new(FIXTURES).join("gena.json")).unwrap();
    for (from, to, wanted) in [
        ("\"dropout\":null", "\"dropout\":0.1", "model.dropout: 0.1"),
        ("\"fuse_unk\":false", "\"fuse_unk\":true", "model.fuse_unk: true"),
        ("\"single_word\":false", "\"single_word\":true", "added_tokens: \"[UNK]\" with single_word"),
        ("N{10,}", "N+", "normalizer: "),
        ("\"Isolated\"", "\"Removed\"", "pre_tokenizer: "),
        ("[\"[CLS]\",1]", "[\"[CLS]\",0]", "post_processor: sequences that are not"),
        ("[\"A\",\"A\"]", "[\"A\",\"AA\"]", "which is no token yet"),
        ("\"[MASK]\":4", "\"[MASK]\":5", "model.vocab: ids that are not 0, 1, 2"),
        ("\"[MASK]\":4", "\"[MUSK]\":4", "model.vocab: no token [MASK]"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        std::fs::write(&path, changed).unwrap();
        let message = tokenizer::read(folder.path()).unwrap_err().to_string();
        assert!(message.contains(wanted), "{from}: {message}");
    }
}
