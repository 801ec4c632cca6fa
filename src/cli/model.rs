//! Options that describe a new model.

use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
use crate::model::{Config, Preset, Tokens, preset};
use crate::tokenizer::blocks::{Blocks, Version};
use crate::tokenizer::{self, Tokenizer};
use crate::{Error, Result};

/// A preset and what deviates from it.
#[derive(clap::Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelArgs {
    /// Model: dnabert-3 to dnabert-6, bionemo-xsmall, mini, splice-small, splice-tokens; dnabert2-117m, bigbird-dna-4096, moderngena-base,
    /// moderngena-large (with --tokenizer); nt-500m,
    /// nt-2.5b, nt-v2-50m to nt-v2-500m.
    #[arg(long)]
    pub preset: Option<String>,
    /// Bases in a token, 3 to 6 (default: the preset's).
    #[arg(long)]
    pub k: Option<usize>,
    /// Encoder layers.
    #[arg(long, value_name = "N")]
    pub layers: Option<usize>,
    /// Width of the residual stream.
    #[arg(long, value_name = "N")]
    pub hidden: Option<usize>,
    /// Attention heads.
    #[arg(long, value_name = "N")]
    pub heads: Option<usize>,
    /// Width of the feed-forward layer.
    #[arg(long, value_name = "N")]
    pub intermediate: Option<usize>,
    /// Epsilon of LayerNorm.
    #[arg(long, value_name = "EPS")]
    pub layer_norm_eps: Option<f64>,
    /// Dropout of embeddings, sublayers and the classifier's input (default 0.1).
    #[arg(long, value_name = "P")]
    pub hidden_dropout: Option<f64>,
    /// Dropout of attention probabilities, in steps of 1/256 (default 0.1, which is 26/256).
    #[arg(long, value_name = "P")]
    pub attention_dropout: Option<f64>,
    /// Order of the vocabulary: atcg (DNABERT) or acgt (BioNeMo).
    #[arg(long, value_enum)]
    pub base_order: Option<BaseOrder>,
    /// The folder of a tokenizer.json, for models over byte-pair encoding.
    #[arg(long, value_name = "DIR")]
    pub tokenizer: Option<PathBuf>,
}

impl ModelArgs {
    /// The model comes from elsewhere: no size may be given.
    pub fn refuse(&self, because: &str) -> Result<()> {
        let sizes = [self.k, self.layers, self.hidden, self.heads, self.intermediate];
        let rates = [self.layer_norm_eps, self.hidden_dropout, self.attention_dropout];
        let given = self.preset.is_some() || self.base_order.is_some() || self.tokenizer.is_some();
        if given || sizes.iter().any(Option::is_some) || rates.iter().any(Option::is_some) {
            return Err(Error::usage(
                format!("{because} with options that describe a new model"),
                "leave out --preset, --k, --base-order, --tokenizer and all sizes: the checkpoint has them",
            ));
        }
        Ok(())
    }

    /// The preset, with what deviates from it.
    fn sizes(&self, default_preset: &str) -> Result<Preset> {
        let mut preset = *preset(self.preset.as_deref().unwrap_or(default_preset))?;
        match (self.k, preset.k()) {
            (Some(k), Some(_)) => preset.tokens = Tokens::Kmers(k),
            (Some(k), None) => {
                let found = format!("--k {k} with --preset {}, whose tokens are no k-mers", preset.name);
                return Err(Error::usage(found, "leave --k out, or choose a preset over k-mers"));
            }
            _ => {}
        }
        preset.layers = self.layers.unwrap_or(preset.layers);
        preset.hidden = self.hidden.unwrap_or(preset.hidden);
        preset.heads = self.heads.unwrap_or(preset.heads);
        preset.intermediate = self.intermediate.unwrap_or(preset.intermediate);
        preset.layer_norm_eps = self.layer_norm_eps.unwrap_or(preset.layer_norm_eps);
        Ok(preset)
    }

    /// What makes the tokens: the preset's k-mers or blocks, or what `--tokenizer` names.
    ///
    /// # Errors
    /// [`Error::Usage`] for an option that does not fit the preset; those of the folder.
    pub fn tokenizer(&self, default_preset: &str) -> Result<Arc<dyn Tokenizer>> {
        let preset = self.sizes(default_preset)?;
        let wrong = |found: &str, remedy: &str| Err(Error::usage(format!("--preset {} {found}", preset.name), remedy));
        if preset.k().is_none() && self.base_order.is_some() {
            return wrong("with --base-order", "leave it out: only vocabularies of k-mers have another order");
        }
        match (preset.tokens, &self.tokenizer) {
            (Tokens::BytePairs(_), None) => wrong(
                "without --tokenizer",
                "name the folder of a tokenizer.json, a released one or one of `helixgrad tokenizer train`",
            ),
            (Tokens::BytePairs(_), Some(folder)) => {
                let found = tokenizer::read(folder)?;
                match found.most_bases(1) {
                    None => Ok(found),
                    Some(_) => wrong(
                        &format!("with a tokenizer of {}", found.describe()),
                        "name a folder with a tokenizer.json of byte-pair encoding",
                    ),
                }
            }
            (_, Some(_)) => wrong("with --tokenizer", "leave it out: this preset has a vocabulary of its own"),
            (Tokens::Kmers(k), None) => Ok(Vocabulary::new(k, self.base_order.unwrap_or(BaseOrder::Atcg))?.shared()),
            (Tokens::Blocks { specials: 4 }, None) => Ok(Blocks::new(Version::One).shared()),
            (Tokens::Blocks { .. }, None) => Ok(Blocks::new(Version::Two).shared()),
        }
    }

    /// The configuration, with room for `max_length` tokens.
    ///
    /// # Errors
    /// [`Error::Usage`] for an unknown preset, and sizes that do not fit together; those of the tokenizer's folder.
    pub fn config(&self, default_preset: &str, max_length: usize) -> Result<Config> {
        let mut preset = self.sizes(default_preset)?;
        if let (Tokens::BytePairs(_), Some(_)) = (preset.tokens, &self.tokenizer) {
            preset.tokens = Tokens::BytePairs(self.tokenizer(default_preset)?.len());
        }
        let mut config = preset.config(max_length);
        config.hidden_dropout_prob = self.hidden_dropout.unwrap_or(config.hidden_dropout_prob);
        config.attention_probs_dropout_prob = self.attention_dropout.unwrap_or(config.attention_probs_dropout_prob);
        config.validate()?;
        Ok(config)
    }
}
