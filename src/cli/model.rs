//! Options that describe a new model.

use serde::Serialize;

use crate::kmer::vocabulary::{BaseOrder, Vocabulary};
use crate::model::{Config, Tokens, preset};
use crate::{Error, Result};

/// A preset and what deviates from it.
#[derive(clap::Args, Clone, Debug, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct ModelArgs {
    /// Model size: dnabert-3 to dnabert-6, bionemo-xsmall, mini, splice-small.
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
}

impl ModelArgs {
    /// The model comes from elsewhere: no size may be given.
    pub fn refuse(&self, because: &str) -> Result<()> {
        let sizes = [self.k, self.layers, self.hidden, self.heads, self.intermediate];
        let rates = [self.layer_norm_eps, self.hidden_dropout, self.attention_dropout];
        let given = self.preset.is_some() || self.base_order.is_some();
        if given || sizes.iter().any(Option::is_some) || rates.iter().any(Option::is_some) {
            return Err(Error::usage(
                format!("{because} with options that describe a new model"),
                "leave out --preset, --k, --base-order and all sizes: the checkpoint has them",
            ));
        }
        Ok(())
    }

    /// The vocabulary and the configuration, with room for `max_length` tokens.
    pub fn resolve(&self, default_preset: &str, max_length: usize) -> Result<(Vocabulary, Config)> {
        let mut preset = *preset(self.preset.as_deref().unwrap_or(default_preset))?;
        let Some(k) = self.k.or(preset.k()).filter(|_| preset.k().is_some()) else {
            let found = format!("--preset {}: its tokens are no k-mers", preset.name);
            return Err(Error::usage(found, "choose a preset over k-mers, or import a model of this family"));
        };
        preset.tokens = Tokens::Kmers(k);
        preset.layers = self.layers.unwrap_or(preset.layers);
        preset.hidden = self.hidden.unwrap_or(preset.hidden);
        preset.heads = self.heads.unwrap_or(preset.heads);
        preset.intermediate = self.intermediate.unwrap_or(preset.intermediate);
        preset.layer_norm_eps = self.layer_norm_eps.unwrap_or(preset.layer_norm_eps);
        let vocabulary = Vocabulary::new(k, self.base_order.unwrap_or(BaseOrder::Atcg))?;
        let mut config = preset.config(max_length);
        config.hidden_dropout_prob = self.hidden_dropout.unwrap_or(config.hidden_dropout_prob);
        config.attention_probs_dropout_prob = self.attention_dropout.unwrap_or(config.attention_probs_dropout_prob);
        config.validate()?;
        Ok((vocabulary, config))
    }
}
