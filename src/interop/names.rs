//! The names that a BERT's tensors have had over the years, made those of today.

use std::collections::BTreeMap;

use clap::ValueEnum;
use serde::Serialize;

use super::Weights;
use super::config::Writer;
use crate::model::{Architecture, Config, Family, Head};
use crate::{Error, Result};

const BIAS: &str = "cls.predictions.bias";
const DECODER_BIAS: &str = "cls.predictions.decoder.bias";

/// How often a masked-LM head adds its bias to the logits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum DecoderBias {
    /// Twice for what DNABERT's own program trained, once for the rest.
    #[default]
    Auto,
    /// Once: transformers, except 2.5.0.
    Once,
    /// Twice: DNABERT's fork of transformers 2.5.0, where the decoder has the bias and the head adds it again
    /// (huggingface/transformers#2957).
    Twice,
}

/// Renames the tensors of `weights` to what those of `family` are called in today's transformers, and returns what was done, in
/// words. Names that mean nothing here stay.
///
/// - `module.` (DataParallel) and `_orig_mod.` (torch.compile) before a name go.
/// - `embeddings.`, `encoder.`, `pooler.`, and of ModernBERT `layers.` and `final_norm.`, get the family's prefix (`bert.`, `esm.`, `model.`), which an
///   encoder saved alone lacks; a second one, and one before a head, go.
/// - `gamma` and `beta` of a LayerNorm are its `weight` and `bias`.
///
/// # Errors
/// [`Error::Input`] if two tensors get the same name.
pub fn modernise(weights: &mut Weights, family: Family) -> Result<Vec<String>> {
    let mut counts = [0; 3];
    let mut renamed = BTreeMap::new();
    for (old, stored) in std::mem::take(&mut weights.tensors) {
        let name = modern(&old, family.prefix(), &mut counts);
        if renamed.insert(name.clone(), stored).is_some() {
            let found = format!("two tensors that mean {name}, one of them {old}");
            return Err(Error::input(&weights.path, "", found, "use a file that holds one model"));
        }
    }
    weights.tensors = renamed;
    let told = [
        "names began with module. (DataParallel) or _orig_mod. (torch.compile), which was removed".into(),
        format!("names lacked {} before them or had one too many", family.prefix()),
        "LayerNorm parameters were called gamma and beta; they are weight and bias now".into(),
    ];
    let told = counts.into_iter().zip(told).filter(|(count, _)| *count > 0);
    Ok(told.map(|(count, what)| format!("{count} {what}")).collect())
}

fn modern(old: &str, prefix: &str, counts: &mut [u64; 3]) -> String {
    let mut name = old;
    for wrapper in ["module.", "_orig_mod."] {
        if let Some(rest) = name.strip_prefix(wrapper) {
            counts[0] += 1;
            name = rest;
        }
    }
    let mut name = name.to_owned();
    let starts = |name: &str, parts: &[&str]| parts.iter().any(|part| name.starts_with(part));
    if starts(&name, &["embeddings.", "encoder.", "pooler.", "layers.", "final_norm."]) {
        counts[1] += 1;
        name.insert_str(0, prefix);
    } else if name.strip_prefix(prefix).is_some_and(|rest| starts(rest, &[prefix, "cls.", "classifier.", "lm_head."])) {
        counts[1] += 1;
        name.replace_range(..prefix.len(), "");
    }
    for (from, to) in [("LayerNorm.gamma", "LayerNorm.weight"), ("LayerNorm.beta", "LayerNorm.bias")] {
        if let Some(stem) = name.strip_suffix(from) {
            counts[2] += 1;
            name = format!("{stem}{to}");
        }
    }
    name
}

/// Whether another tensor stands for this one.
pub fn is_redundant(config: &Config, name: &str) -> bool {
    let Architecture { family, tied_decoder, .. } = config.architecture;
    (tied_decoder && name == family.decoder()) || name == DECODER_BIAS
}

/// Gives a table of words that its file has only as the decoder's weight, since it is the same, the name that it has here.
pub fn untie(weights: &mut Weights, config: &Config) {
    let Architecture { family, tied_decoder, .. } = config.architecture;
    if tied_decoder
        && !weights.tensors.contains_key(&family.words())
        && let Some(decoder) = weights.tensors.get(family.decoder()).cloned()
    {
        weights.tensors.insert(family.words(), decoder);
    }
}

/// Refuses a decoder of its own where the model is said to have none.
///
/// # Errors
/// [`Error::Input`] for one, and for tensors of another shape.
pub fn check_decoder(weights: &Weights, config: &Config) -> Result<()> {
    let Architecture { family, tied_decoder, .. } = config.architecture;
    let shape = [config.vocab_size, config.hidden_size];
    if tied_decoder
        && let Some(decoder) = weights.values(family.decoder(), &shape)?
        && weights.values(&family.words(), &shape)?.is_some_and(|words| words != decoder)
    {
        let class = family.class(&Head::Encoder { pooler: false }).unwrap_or("the encoder");
        return Err(Error::input(
            &weights.path,
            format!("tensor {}", family.decoder()),
            "it differs from the word embeddings, which this model shares",
            format!(
                "train with tie_word_embeddings, or use the encoder only: name {class} in config.json's architectures"
            ),
        ));
    }
    Ok(())
}

/// The bias of a BERT's masked-LM head, `[vocabulary]`, as it has to be added once, and what was done to get it.
///
/// # Errors
/// [`Error::Input`] for two different biases, and for tensors of another shape.
pub fn decoder_bias(
    weights: &Weights,
    vocabulary: usize,
    rule: DecoderBias,
    writer: &Writer,
) -> Result<(Option<Vec<f32>>, Vec<String>)> {
    let refuse = |name: &str, found: &str, remedy: &str| {
        Err(Error::input(&weights.path, format!("tensor {name}"), found, remedy))
    };
    let (bias, second) = (weights.values(BIAS, &[vocabulary])?, weights.values(DECODER_BIAS, &[vocabulary])?);
    let (Some(mut first), second) = (match bias {
        Some(bias) => (Some(bias), second),
        None => (second, None),
    }) else {
        return Ok((None, Vec::new()));
    };
    let twice = match rule {
        DecoderBias::Auto => second.is_some() && *writer == Writer::Unversioned,
        DecoderBias::Once => false,
        DecoderBias::Twice => true,
    };
    if !twice {
        if second.is_some_and(|second| second != first) {
            return refuse(
                DECODER_BIAS,
                "it differs from cls.predictions.bias",
                "say which is meant: --decoder-bias twice adds both",
            );
        }
        return Ok((Some(first), Vec::new()));
    }
    let second = second.unwrap_or_else(|| first.clone());
    first.iter_mut().zip(&second).for_each(|(first, second)| *first += second);
    let why = match rule {
        DecoderBias::Auto => {
            "config.json names no version of transformers, as DNABERT's program writes it: there the decoder has the \
             bias and the head adds it again, so cls.predictions.bias is the sum of both now (--decoder-bias once if \
             another program trained this)"
        }
        _ => "cls.predictions.bias is the sum of the two biases now, as asked for",
    };
    Ok((Some(first), vec![why.to_owned()]))
}
