//! The shape of a model, in the words of a Hugging Face `config.json`.

use serde::{Deserialize, Serialize};

use super::{Architecture, Attending, Positions, Recompute, Trained};
use crate::device::{Device, host_memory};
use crate::{Error, Result};

/// Sizes and rates of a BERT encoder.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Entries of the vocabulary: 4^k + 5 for k-mers.
    pub vocab_size: usize,
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Encoder layers.
    pub num_hidden_layers: usize,
    /// Attention heads; they divide `hidden_size`.
    pub num_attention_heads: usize,
    /// Width of the feed-forward layer.
    pub intermediate_size: usize,
    /// Longest sequence in tokens, `[CLS]` and `[SEP]` included.
    pub max_position_embeddings: usize,
    /// Token types, where the family has them.
    #[serde(default = "default_type_vocab_size")]
    pub type_vocab_size: usize,
    /// Added to the variance in LayerNorm.
    #[serde(default = "default_layer_norm_eps")]
    pub layer_norm_eps: f64,
    /// Dropout of embeddings, sublayer outputs and the classifier's input.
    #[serde(default = "default_dropout")]
    pub hidden_dropout_prob: f64,
    /// Dropout of attention probabilities.
    #[serde(default = "default_dropout")]
    pub attention_probs_dropout_prob: f64,
    /// Standard deviation of initial weights.
    #[serde(default = "default_initializer_range")]
    pub initializer_range: f64,
    /// What the encoder is made of. In `config.json` each family has words of its own for it (`interop::config`).
    #[serde(skip_deserializing)]
    pub architecture: Architecture,
}

fn default_type_vocab_size() -> usize {
    2
}
fn default_layer_norm_eps() -> f64 {
    1e-12
}
fn default_dropout() -> f64 {
    0.1
}
fn default_initializer_range() -> f64 {
    0.02
}

/// The largest of each size.
const LARGEST_SIZE: usize = 1 << 24;
const MOST_LAYERS: usize = 10_000;

impl Config {
    /// Checks that the sizes fit together.
    ///
    /// # Errors
    /// [`Error::Usage`] naming the size that does not.
    pub fn validate(&self) -> Result<()> {
        let positive = [
            ("vocab_size", self.vocab_size),
            ("hidden_size", self.hidden_size),
            ("num_hidden_layers", self.num_hidden_layers),
            ("num_attention_heads", self.num_attention_heads),
            ("intermediate_size", self.intermediate_size),
            ("max_position_embeddings", self.max_position_embeddings),
            ("type_vocab_size", self.type_vocab_size),
        ];
        for (name, value) in positive {
            if !(1..=LARGEST_SIZE).contains(&value) {
                return Err(Error::usage(format!("{name} is {value}"), "give a size from 1 to 16,777,216"));
            }
        }
        // Each layer has a list of named parameters, however small they are.
        if self.num_hidden_layers > MOST_LAYERS {
            let found = format!("num_hidden_layers is {}", self.num_hidden_layers);
            return Err(Error::usage(found, "give 1 to 10,000 layers"));
        }
        if !self.hidden_size.is_multiple_of(self.num_attention_heads) {
            return Err(Error::usage(
                format!(
                    "{} attention heads do not divide a hidden size of {}",
                    self.num_attention_heads, self.hidden_size
                ),
                "choose a hidden size that is a multiple of the number of heads",
            ));
        }
        self.validate_architecture()?;
        let rates = [
            ("hidden_dropout_prob", self.hidden_dropout_prob),
            ("attention_probs_dropout_prob", self.attention_probs_dropout_prob),
        ];
        for (name, rate) in rates {
            if !(0.0..1.0).contains(&rate) {
                return Err(Error::usage(
                    format!("{name} is {rate}"),
                    "give a probability from 0 up to, not including, 1",
                ));
            }
        }
        if !(self.layer_norm_eps >= 0.0 && self.layer_norm_eps < 1.0) {
            return Err(Error::usage(format!("layer_norm_eps is {}", self.layer_norm_eps), "use 1e-12, as DNABERT"));
        }
        if !(self.initializer_range >= 0.0 && self.initializer_range.is_finite()) {
            return Err(Error::usage(
                format!("initializer_range is {}", self.initializer_range),
                "use 0.02, as DNABERT",
            ));
        }
        // Offsets into the flat buffer and the bytes of its copies must stay far from overflow.
        if self.weights() > 1 << 36 {
            return Err(Error::usage("the model would have over 68 billion parameters", "choose smaller sizes"));
        }
        Ok(())
    }

    fn validate_architecture(&self) -> Result<()> {
        let head_dim = self.hidden_size / self.num_attention_heads;
        if matches!(self.architecture.positions, Positions::Rotary { .. }) && !head_dim.is_multiple_of(2) {
            let found = format!("heads of {head_dim} elements, which rotary positions take in pairs");
            return Err(Error::usage(found, "choose heads of an even size"));
        }
        if let Attending::BlockSparse { block, random } = self.architecture.attending
            && !((1..=4096).contains(&block) && random <= 64)
        {
            let found = format!("blocks of {block} tokens, {random} of them at random");
            return Err(Error::usage(found, "use blocks of 64 and 3 at random, as BigBird"));
        }
        if let Attending::Window { reach, full_every } = self.architecture.attending
            && !((1..=LARGEST_SIZE).contains(&reach) && full_every > 0)
        {
            let found = format!("a window of {reach} tokens to each side, and all in every layer of {full_every}");
            return Err(Error::usage(found, "use 64 to each side, and all in every third layer, as ModernBERT"));
        }
        if let Positions::Rotary { base, window_base } = self.architecture.positions
            && let Some(base) = [base, window_base].iter().find(|base| !(**base >= 1.0 && base.is_finite()))
        {
            return Err(Error::usage(format!("rotary positions of base {base}"), "use 10,000, as most models"));
        }
        Ok(())
    }

    /// Rows of each table of embeddings: words, positions, token types; 0 of what the family has not.
    pub fn table_rows(&self) -> [usize; 3] {
        let positions = match self.architecture.positions {
            Positions::Learned { offset } => self.max_position_embeddings + offset,
            Positions::Alibi | Positions::Rotary { .. } => 0,
        };
        let types = if self.architecture.token_types { self.type_vocab_size } else { 0 };
        [self.vocab_size, positions, types]
    }

    /// The names of these tables; those of what the family has not mean nothing.
    pub(super) fn table_names(&self) -> [String; 3] {
        let names = self.architecture.family.names();
        names.tables.map(|table| format!("{}.{table}.weight", names.embeddings))
    }

    /// Tensors that tell whether weights are of these sizes, with their shapes: the tables, and the widest of the last layer.
    pub fn landmarks(&self) -> Vec<(String, [usize; 2])> {
        let names = self.architecture.family.names();
        let tables = self.table_names().into_iter().zip(self.table_rows()).filter(|(_, rows)| *rows > 0);
        let last = format!("{}.{}.{}.weight", names.layers, self.num_hidden_layers - 1, names.up);
        tables.chain([(last, self.up_rows())]).map(|(name, rows)| (name, [rows, self.hidden_size])).collect()
    }

    /// Rows of the first matrix of the feed-forward block: twice its width where it is gated.
    pub fn up_rows(&self) -> usize {
        self.intermediate_size * if self.architecture.feed_forward.is_gated() { 2 } else { 1 }
    }

    /// Elements of all matrices but those of the head.
    pub fn weights(&self) -> usize {
        let tables = self.table_rows().iter().sum::<usize>() * self.hidden_size;
        self.layer_weights().saturating_mul(self.num_hidden_layers).saturating_add(tables)
    }

    /// Elements of the matrices of one layer.
    fn layer_weights(&self) -> usize {
        4 * self.hidden_size * self.hidden_size + self.hidden_size * (self.up_rows() + self.intermediate_size)
    }

    /// Refuses a training that `device` can surely not do: with `tokens` in a micro-batch and `sums` of gradients beside those that are computed, on the CPU, of so much of the model. What is counted are weights, and of what is trained gradients and moments and what an encoder layer
    /// keeps for its way back; so the true need is higher. On
    /// other devices an allocation that fails says so itself.
    ///
    /// # Errors
    /// [`Error::Usage`] with an estimate of the memory, and for what this architecture cannot compute again.
    pub fn check_training(
        &self,
        device: &Device,
        tokens: usize,
        sums: usize,
        recompute: Recompute,
        trained: &Trained,
    ) -> Result<()> {
        if recompute == Recompute::Gelu && self.architecture.feed_forward.is_gated() {
            return Err(Error::usage(
                "--recompute gelu with a gated feed-forward block, which keeps both halves",
                "use --recompute layer, or leave it out",
            ));
        }
        let Device::Cpu = device else { return Ok(()) };
        let bytes = self.training_bytes(tokens, sums, recompute, trained);
        host_memory::require(
            bytes,
            &format!("training this model on {tokens} tokens at a time"),
            "choose smaller sizes, fewer tokens at a time, or --recompute gelu or layer",
        )
    }

    /// The least memory that [`Config::check_training`] knows of, in bytes.
    fn training_bytes(&self, tokens: usize, sums: usize, recompute: Recompute, trained: &Trained) -> f64 {
        let (hidden, all) = (self.hidden_size, self.num_hidden_layers);
        let layers = all.saturating_sub(trained.unrecorded().unwrap_or(0));
        let trained = match trained {
            Trained::Everything => self.weights(),
            Trained::Above(_) => self.layer_weights() * layers,
            Trained::Adapters(lora) => lora.layer_weights(self) * layers,
        };
        let kept = match recompute {
            _ if layers == 0 => 0,
            // Its input, query, key and value, and what attention, two products and LayerNorm make of them; GELU has two. Behind
            // its attention the last layer computes only the rows that the head reads.
            Recompute::None => (7 * hidden + self.up_rows() + self.intermediate_size) * (layers - 1) + 4 * hidden,
            Recompute::Gelu => (7 * hidden + self.up_rows()) * (layers - 1) + 4 * hidden,
            Recompute::Layer => hidden * layers,
        };
        4.0 * self.weights() as f64 + (12 + 4 * sums) as f64 * trained as f64 + 4.0 * tokens as f64 * kept as f64
    }
}

/// What stands on top of the encoder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Head {
    /// Masked-language modelling; the decoder is tied to the word embeddings (`BertForMaskedLM`).
    MaskedLm,
    /// Classification on `[CLS]` through the pooler (`BertForSequenceClassification`, DNABERT's fine-tuning).
    Cls {
        /// Number of classes.
        labels: usize,
    },
    /// Classification on the token at the site (BioNeMo's splice head). Without a hidden layer it is the head of
    /// `BertForTokenClassification`, applied to one token.
    Site {
        /// Number of classes.
        labels: usize,
        /// Width of a hidden layer with GELU, if there is one (BioNeMo: 64).
        hidden: Option<usize>,
    },
    /// Nothing: the encoder alone (`BertModel`), for its hidden states.
    Encoder {
        /// Whether BERT's pooler over `[CLS]` is kept for those who fine-tune.
        pooler: bool,
    },
}

impl Head {
    /// Columns of the logits; of the hidden states, where there is no head.
    pub fn classes(&self, config: &Config) -> usize {
        match *self {
            Self::MaskedLm => config.vocab_size,
            Self::Cls { labels } | Self::Site { labels, .. } => labels,
            Self::Encoder { .. } => config.hidden_size,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Lora, Target, preset};

    #[test]
    fn what_is_frozen_needs_memory_for_its_weights_only() {
        let config = preset("dnabert-6").unwrap().config(512);
        let of = |trained| config.training_bytes(8192, 0, Recompute::None, &trained);
        let bytes = |frozen: Option<usize>| of(frozen.map_or(Trained::Everything, Trained::Above));
        let (weights, layer) = (config.weights() as f64, config.layer_weights() as f64);
        assert_eq!(bytes(Some(12)), 4.0 * weights);
        // 12 bytes a weight for gradient and moments, and what a layer of 8,192 tokens keeps.
        let kept = 4.0 * 8192.0 * (7 * config.hidden_size + 2 * config.intermediate_size) as f64;
        assert_eq!(bytes(Some(3)) - bytes(Some(5)), 2.0 * (12.0 * layer + kept));
        assert_eq!(bytes(None) - bytes(Some(0)), 12.0 * (weights - 12.0 * layer));
        // Adapters have gradients and moments in the matrices' place, and everything is kept for the way back to the lowest.
        let lora = Lora { rank: 4, alpha: 8.0, dropout: 0.0, targets: vec![Target::Query, Target::Value] };
        let adapters = 12.0 * (2 * 4 * 2 * config.hidden_size) as f64;
        assert_eq!(bytes(Some(0)) - of(Trained::Adapters(lora)), 12.0 * (12.0 * layer - adapters));
    }
}
