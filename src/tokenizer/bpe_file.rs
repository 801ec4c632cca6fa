//! The `tokenizer.json` of the `tokenizers` library, as far as DNABERT-2 and GENA-LM have it.

use std::collections::HashMap;
use std::path::Path;

use serde_json::Value;

use super::Specials;
use super::bpe::{Contents, Gaps};
use super::merges::Merges;
use crate::small_file;
use crate::{Error, Result};

/// Tokens that a vocabulary may have: no released one comes near.
const MOST_TOKENS: usize = 1 << 20;
/// Bytes of the longest token.
const LONGEST_TOKEN: usize = 1 << 10;

/// What was found in which entry.
type Finding = (String, String);

pub(super) fn is_at(path: &Path) -> Result<bool> {
    let json: Option<Value> = serde_json::from_str(&small_file::read(path)?).ok();
    Ok(json.is_some_and(|json| json["model"]["merges"].is_array()))
}

pub(super) fn read(path: &Path) -> Result<Contents> {
    let text = small_file::read(path)?;
    let remedy = "use the tokenizer.json of DNABERT-2 or GENA-LM, or one of `helixgrad tokenizer train`";
    parse(text).map_err(|(place, found)| Error::input(path, place, found, remedy))
}

pub(super) fn parse(text: String) -> Result<Contents, Finding> {
    let json: Value = serde_json::from_str(&text).map_err(|error| (String::new(), error.to_string()))?;
    let model = &json["model"];
    for (name, plain) in [
        ("dropout", Value::Null),
        ("continuing_subword_prefix", Value::Null),
        ("end_of_word_suffix", Value::Null),
        ("fuse_unk", Value::Bool(false)),
        ("byte_fallback", Value::Bool(false)),
        ("ignore_merges", Value::Bool(false)),
    ] {
        let value = &model[name];
        if !value.is_null() && *value != plain && value != "" {
            return Err((format!("model.{name}"), format!("{value}, which no model here has")));
        }
    }
    let texts = texts(model)?;
    let ids: HashMap<&str, i32> = texts.iter().map(String::as_str).zip(0..).collect();
    let id = |name: &str| ids.get(name).copied().ok_or_else(|| ("model.vocab".to_owned(), format!("no token {name}")));
    let specials = Specials {
        pad: id("[PAD]")?,
        unk: id("[UNK]")?,
        cls: id("[CLS]")?,
        sep: Some(id("[SEP]")?),
        mask: id("[MASK]")?,
    };
    if model["unk_token"] != "[UNK]" {
        return Err(("model.unk_token".into(), format!("{}, not [UNK]", model["unk_token"])));
    }
    check_frame(&json["post_processor"], &specials)?;
    let added = added(&json, &ids)?;
    let (letters, numbers, merges) = merges(model, &texts, &ids)?;
    let (strips, gaps) = normalizer(&json["normalizer"], &letters)?;
    let splits = pre_tokenizer(&json["pre_tokenizer"])?;
    let merges = Merges::new(letters.len(), &merges);
    Ok(Contents {
        bytes: text.into_bytes(),
        specials,
        letters,
        merges,
        ids: numbers,
        texts,
        added,
        gaps,
        strips,
        splits,
    })
}

/// The text of each id.
fn texts(model: &Value) -> Result<Vec<String>, Finding> {
    let wrong = |found: &str| ("model.vocab".to_owned(), found.to_owned());
    let vocabulary = model["vocab"].as_object().ok_or_else(|| wrong("no table of tokens"))?;
    if vocabulary.len() > MOST_TOKENS {
        return Err(wrong(&format!("{} tokens", vocabulary.len())));
    }
    let mut texts = vec![String::new(); vocabulary.len()];
    for (token, id) in vocabulary {
        let place = id.as_u64().and_then(|id| texts.get_mut(usize::try_from(id).ok()?));
        match place {
            Some(place) if place.is_empty() && !token.is_empty() && token.len() <= LONGEST_TOKEN => {
                place.clone_from(token)
            }
            _ => return Err(wrong("ids that are not 0, 1, 2 and so on, each once, for tokens of a letter and more")),
        }
    }
    Ok(texts)
}

/// Sequences are `[CLS] ... [SEP]`.
fn check_frame(processor: &Value, specials: &Specials) -> Result<(), Finding> {
    let is = |value: &Value, id: i32| value.as_i64() == Some(id.into());
    let sep = specials.sep.unwrap_or_default();
    let fits = match processor["type"].as_str() {
        Some("BertProcessing") => is(&processor["cls"][1], specials.cls) && is(&processor["sep"][1], sep),
        Some("TemplateProcessing") => {
            let single = &processor["single"];
            let of = |place: usize, kind: &str| single[place][kind]["id"].as_str();
            single.as_array().is_some_and(|parts| parts.len() == 3)
                && of(0, "SpecialToken") == Some("[CLS]")
                && of(1, "Sequence") == Some("A")
                && of(2, "SpecialToken") == Some("[SEP]")
        }
        _ => processor.is_null(),
    };
    fits.then_some(()).ok_or_else(|| ("post_processor".into(), "sequences that are not [CLS] ... [SEP]".into()))
}

/// Tokens that stand for themselves in a text.
fn added(json: &Value, ids: &HashMap<&str, i32>) -> Result<Vec<(String, i32)>, Finding> {
    let mut added = Vec::new();
    for token in json["added_tokens"].as_array().into_iter().flatten() {
        let name = token["content"].as_str().unwrap_or_default();
        let wrong = |found: &str| ("added_tokens".to_owned(), format!("{name:?} {found}"));
        match ids.get(name) {
            Some(&id) if token["id"].as_i64() == Some(id.into()) => added.push((name.to_owned(), id)),
            _ => return Err(wrong("is not in model.vocab with its id")),
        }
        if let Some(flag) = ["single_word", "lstrip", "rstrip"].into_iter().find(|flag| token[flag] == true) {
            return Err(wrong(&format!("with {flag}")));
        }
    }
    Ok(added)
}

/// Letters, the id of each token of the merges, and the merges.
type Learnt = (Vec<u8>, Vec<i32>, Vec<[u32; 2]>);

fn merges(model: &Value, texts: &[String], ids: &HashMap<&str, i32>) -> Result<Learnt, Finding> {
    // Letters are the tokens of one character; no other can be read.
    let (letters, mut numbers): (Vec<u8>, Vec<i32>) =
        (0..).zip(texts).filter(|(_, text)| text.len() == 1).map(|(id, text)| (text.as_bytes()[0], id)).unzip();
    if letters.is_empty() || letters.len() > 64 || letters.iter().any(u8::is_ascii_whitespace) {
        return Err(("model.vocab".into(), format!("{} tokens of one letter", letters.len())));
    }
    let mut known: HashMap<&str, u32> = numbers.iter().map(|&id| texts[id as usize].as_str()).zip(0..).collect();
    let mut merges = Vec::new();
    for (index, merge) in model["merges"].as_array().into_iter().flatten().enumerate() {
        let wrong = |found: String| (format!("model.merges, number {}", index + 1), found);
        // Older files write a merge as one text, newer ones as two.
        let parts = match merge {
            Value::String(both) => both.split_once(' '),
            _ => merge[0].as_str().zip(merge[1].as_str()),
        };
        let (left, right) = parts.ok_or_else(|| wrong("not two tokens".into()))?;
        let joined = format!("{left}{right}");
        let part =
            |name: &str| known.get(name).copied().ok_or_else(|| wrong(format!("{name:?}, which is no token yet")));
        let pair = [part(left)?, part(right)?];
        let Some(&id) = ids.get(joined.as_str()) else {
            return Err(wrong(format!("{joined:?} is not in model.vocab")));
        };
        let number = numbers.len() as u32;
        if known.insert(&texts[id as usize], number).is_some() {
            return Err(wrong(format!("{joined:?}, which an earlier merge makes")));
        }
        numbers.push(id);
        merges.push(pair);
    }
    Ok((letters, numbers, merges))
}

/// Whether the ends of a text are stripped, and the runs that become one token.
fn normalizer(normalizer: &Value, letters: &[u8]) -> Result<(bool, Option<Gaps>), Finding> {
    let (mut strips, mut gaps) = (false, None);
    let steps = match normalizer["type"].as_str() {
        Some("Sequence") => normalizer["normalizers"].as_array().cloned().unwrap_or_default(),
        None if normalizer.is_null() => Vec::new(),
        _ => vec![normalizer.clone()],
    };
    for step in steps {
        let gap =
            step["pattern"]["Regex"].as_str().and_then(|pattern| gap(pattern, step["content"].as_str()?, letters));
        match (step["type"].as_str(), gap) {
            (Some("Strip"), _) if step["strip_left"] == true && step["strip_right"] == true => strips = true,
            (Some("Replace"), Some(found)) if gaps.is_none() => gaps = Some(found),
            _ => return Err(("normalizer".into(), format!("{step}, which no model here has"))),
        }
    }
    Ok((strips, gaps))
}

/// A pattern like `N{10,}`, which is written as a single letter.
fn gap(pattern: &str, written: &str, letters: &[u8]) -> Option<Gaps> {
    let (letter, count) = pattern.strip_suffix(",}")?.split_once('{')?;
    let number = |text: &str| letters.iter().position(|&letter| text.as_bytes() == [letter]).map(|number| number as u8);
    let least = count.parse().ok().filter(|&least| least > 0)?;
    Some(Gaps { letter: number(letter)?, least, written: number(written)? })
}

/// Whether white space separates words. What GENA-LM cuts out has no merges, and stands alone anyway.
fn pre_tokenizer(pre_tokenizer: &Value) -> Result<bool, Finding> {
    match pre_tokenizer["type"].as_str() {
        Some("Whitespace" | "WhitespaceSplit") => Ok(true),
        Some("Split") if pre_tokenizer["pattern"]["String"] == "-" && pre_tokenizer["behavior"] == "Isolated" => {
            Ok(false)
        }
        None if pre_tokenizer.is_null() => Ok(false),
        _ => Err(("pre_tokenizer".into(), format!("{pre_tokenizer}, which no model here has"))),
    }
}
