//! BERT, written with the operations of [`crate::ops`].

use std::rc::Rc;

use super::layout::{HeadLayout, Layer, Layout};
use super::{Config, Head};
use crate::autograd::{DeviceBatch, Parameters, Pass, Spec, Tape, Tensor};
use crate::device::attention_kernels::AttentionKernels;
use crate::device::{Buffer, DType, Device, host_memory, nvtx};
use crate::kmer::batch::Batch;
use crate::ops::{self, Activated, Gelu, Summands};
use crate::philox::{Philox, Purpose};
use crate::{Error, Result};

/// A model: its configuration, its head and its parameters.
pub struct Model {
    /// Sizes and rates.
    pub config: Config,
    /// What stands on the encoder.
    pub head: Head,
    /// Weights and gradients.
    pub parameters: Parameters,
    /// What of the activations is not kept for the way back.
    pub recompute: Recompute,
    frozen: Option<usize>,
    layout: Layout,
}

/// What of the activations is computed again on the way back instead of being kept: memory for time, and not a bit of the
/// result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recompute {
    /// Nothing: everything is kept.
    #[default]
    None,
    /// GELU's output in each layer, from its input: a quarter of a layer's memory, for one pass over that tensor.
    Gelu,
    /// Whole encoder layers: only their inputs are kept, and a third of the matrix products comes on top.
    Layer,
}

impl Model {
    /// A model with zero weights, to be loaded.
    ///
    /// # Errors
    /// [`Error::Usage`] for a configuration that does not fit together.
    pub fn zeros(config: Config, head: Head, dtype: DType) -> Result<Self> {
        let layout = layout(&config, &head, None)?;
        let parameters = Parameters::zeros(layout.specs.clone(), layout.decayed, dtype);
        Ok(Self { config, head, parameters, recompute: Recompute::default(), frozen: None, layout })
    }

    /// A model with BERT's initial weights: matrices N(0, `initializer_range`), the row of `[PAD]` zero, biases 0,
    /// LayerNorm scales 1. A weight is drawn at its index in its parameter, in the stream of the parameter's name, so
    /// models that share a parameter start alike.
    ///
    /// # Errors
    /// As [`Model::zeros`].
    pub fn initialise(config: Config, head: Head, dtype: DType, seed: u64) -> Result<Self> {
        let mut model = Self::zeros(config, head, dtype)?;
        model.parameters.values = model.initial_weights(dtype, seed);
        Ok(model)
    }

    fn initial_weights(&self, dtype: DType, seed: u64) -> Buffer {
        let mut values = Buffer::zeros(self.parameters.len(), dtype);
        for spec in &self.parameters.specs {
            let philox = Philox::new(seed, name_hash(&spec.name), Purpose::Init as u32);
            let deviation = self.config.initializer_range;
            let padding = if spec.name.ends_with("word_embeddings.weight") { self.config.hidden_size } else { 0 };
            let value = |index: usize| match spec.shape.len() {
                2 if index < padding => 0.0,
                2 => deviation * philox.normal(index as u64),
                _ if spec.name.ends_with("LayerNorm.weight") => 1.0,
                _ => 0.0,
            };
            ops::for_real!(dtype, T => {
                let weights = &mut values.slice_mut::<T>()[spec.range()];
                weights.iter_mut().enumerate().for_each(|(index, weight)| *weight = value(index) as T);
            });
        }
        values
    }

    /// The parameters that such a model has: names, shapes, places.
    ///
    /// # Errors
    /// As [`Model::zeros`].
    pub fn parameter_specs(config: &Config, head: &Head) -> Result<Vec<Spec>> {
        Ok(layout(config, head, None)?.specs)
    }

    /// Freezes the embeddings and this many layers above them, from below; `None`: nothing. What is frozen has no gradient, no moments and no
    /// decay, and nothing goes back through it. Dropout works in it as elsewhere. The weights must lie on the host.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are not as many layers, and for masked-language modelling, which trains the embeddings as its decoder.
    pub fn freeze(&mut self, frozen: Option<usize>) -> Result<()> {
        if frozen == self.frozen {
            return Ok(());
        }
        if self.head == Head::MaskedLm {
            return Err(Error::usage("frozen layers in pretraining", "freeze those of a classifier"));
        }
        let layers = self.config.num_hidden_layers;
        if let Some(wanted) = frozen.filter(|wanted| *wanted > layers) {
            let found = format!("{wanted} frozen layers, but the model has {layers}");
            return Err(Error::usage(found, format!("give 1 to {layers}; {layers} is the whole encoder")));
        }
        let layout = layout(&self.config, &self.head, frozen)?;
        let (old, dtype) = (&self.parameters, self.parameters.values.dtype());
        let mut new = Parameters::zeros(layout.specs.clone(), layout.decayed, dtype);
        new.gradients = Buffer::zeros(layout.trained, dtype);
        ops::for_real!(dtype, T => {
            for spec in &new.specs {
                let Some(before) = old.find(&spec.name) else { continue };
                new.values.slice_mut::<T>()[spec.range()].copy_from_slice(&old.values.slice()[before.range()]);
            }
        });
        (self.parameters, self.layout, self.frozen) = (new, layout, frozen);
        Ok(())
    }

    /// Layers that are frozen, and the embeddings with them; `None` if everything is trained.
    pub fn frozen(&self) -> Option<usize> {
        self.frozen
    }

    /// Number of weights that are trained, without the gaps of the flat buffer.
    pub fn trained_count(&self) -> usize {
        let trained = self.parameters.trained();
        self.parameters.specs.iter().filter(|spec| spec.offset < trained).map(|spec| spec.len()).sum()
    }

    /// Number of weights, without the gaps of the flat buffer.
    pub fn parameter_count(&self) -> usize {
        self.parameters.specs.iter().map(|spec| spec.len()).sum()
    }

    /// Multiplications and additions in the matrix products of one training step, forward and backward: 6 for each
    /// weight and row that it meets, and 12 for each layer, hidden unit and pair of tokens of a sequence. After its
    /// attention the last layer meets only the rows that the head reads, as the head does. What is frozen goes forward only: a third of that; and
    /// the layer above needs no gradient of its input.
    pub fn training_flops(&self, batch: &DeviceBatch) -> f64 {
        let (hidden, layers) = (self.config.hidden_size, self.config.num_hidden_layers);
        let (tokens, rows) = (batch.tokens.len() as f64, batch.rows.len() as f64);
        let qkv = 3 * hidden * hidden;
        let after_attention = hidden * hidden + 2 * hidden * self.config.intermediate_size;
        let head = match &self.layout.head {
            HeadLayout::MaskedLm { .. } => hidden * (hidden + self.config.vocab_size),
            HeadLayout::Cls { pooler, classifier } => hidden * (pooler.weight.rows + classifier.weight.rows),
            HeadLayout::Site { dense, classifier } => {
                dense.map_or(0, |dense| dense.weight.rows * hidden) + classifier.weight.rows * classifier.weight.columns
            }
            HeadLayout::Encoder => 0,
        };
        let frozen = self.frozen.unwrap_or(0);
        let layer = |layer: usize| {
            let passes = if layer < frozen { 2.0 } else { 6.0 };
            let needless = if self.frozen == Some(layer) { 2.0 } else { 0.0 };
            let others = if layer + 1 == layers { rows } else { tokens };
            (passes - needless) * tokens * qkv as f64
                + passes * others * after_attention as f64
                + 2.0 * passes * hidden as f64 * batch.pairs as f64
        };
        (0..layers).map(layer).sum::<f64>() + 6.0 * rows * head as f64
    }

    /// Checks that sequences of `longest` tokens have positions.
    ///
    /// # Errors
    /// [`Error::Usage`] if they have not.
    pub fn check_length(&self, longest: usize) -> Result<()> {
        let positions = self.config.max_position_embeddings;
        if longest > positions {
            return Err(Error::usage(
                format!("a sequence of {longest} tokens, but the model has {positions} positions"),
                "use shorter windows (--window), or a model with more positions",
            ));
        }
        Ok(())
    }

    /// Checks that `entries` tokens have embeddings.
    ///
    /// # Errors
    /// [`Error::Usage`] if they have not.
    pub fn check_vocabulary(&self, entries: usize) -> Result<()> {
        let found = self.config.vocab_size;
        if entries > found {
            return Err(Error::usage(
                format!("a vocabulary of {entries} tokens, but the model knows {found}"),
                "use the vocabulary that the model was trained with",
            ));
        }
        Ok(())
    }

    /// Which attention this model runs with on `device` in `dtype`, for reports: "cpu", or "sm80 bf16, heads of 40 to 64".
    ///
    /// # Errors
    /// [`Error::Usage`] for heads that the device's kernels do not take.
    pub fn attention_path(&self, device: &Device, dtype: DType) -> Result<String> {
        let head_dim = self.config.hidden_size / self.config.num_attention_heads;
        let kernels = device.attention_kernels(dtype, head_dim, false)?;
        Ok(kernels.map_or_else(|| "cpu".into(), AttentionKernels::describe))
    }

    /// Checks a batch against this model and copies it to the tape's device, into memory of its pool.
    ///
    /// # Errors
    /// [`Error::Usage`] for a sequence that is longer than the model's positions, or a token outside its vocabulary.
    pub fn upload(&self, tape: &mut Tape, batch: &Batch) -> Result<Rc<DeviceBatch>> {
        self.check_length(batch.max_length())?;
        let tables = [
            ("token", &batch.tokens, self.config.vocab_size),
            ("position", &batch.positions, self.config.max_position_embeddings),
            ("token type", &batch.token_types, self.config.type_vocab_size),
            ("row", &batch.rows, batch.total_tokens()),
        ];
        for (what, indices, bound) in tables {
            if let Some(bad) = indices.iter().find(|&&index| !(0..bound as i64).contains(&i64::from(index))) {
                return Err(Error::usage(
                    format!("{what} {bad}, where the model takes 0 to {}", bound.saturating_sub(1)),
                    "use the vocabulary that the model was trained with",
                ));
            }
        }
        DeviceBatch::upload_pooled(tape, batch)
    }

    /// The encoder: the embeddings' output and every layer's, `[total_tokens, hidden]` each.
    ///
    /// # Errors
    /// Those of the device.
    pub fn encode(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>) -> Result<Vec<Tensor>> {
        let mut hidden = vec![self.embed(tape, batch)?];
        for layer in &self.layout.layers {
            hidden.push(self.layer(tape, batch, layer, hidden[hidden.len() - 1], Rows::All)?);
        }
        Ok(hidden)
    }

    /// Queries, keys and values of layer `layer` (from 0), `[total_tokens, 3 hidden]`, from what goes into it: an element
    /// of what [`Model::encode`] returns.
    ///
    /// # Errors
    /// Those of the device.
    ///
    /// # Panics
    /// If there is no such layer: a fault of the caller, never of input.
    pub fn queries_keys_values(&self, tape: &mut Tape, input: Tensor, layer: usize) -> Result<Tensor> {
        linear(tape, &self.parameters, input, self.layout.layers[layer].qkv)
    }

    /// The output of layer `layer` (0: of the embeddings), `[total_tokens, hidden]`, or with [`Rows::OfHead`] only of
    /// `batch.rows`. The layers behind it are not computed.
    ///
    /// # Errors
    /// Those of the device.
    pub fn hidden(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>, layer: usize, rows: Rows) -> Result<Tensor> {
        let mut x = tape.unrecorded(self.frozen.is_some(), |tape| self.embed(tape, batch))?;
        if layer == 0 && rows == Rows::OfHead {
            return ops::gather(tape, batch, x);
        }
        for (index, part) in self.layout.layers[..layer].iter().enumerate() {
            tape.keep_only(&[x]);
            tape.enter_layer(Some(index));
            let rows = if index + 1 == layer { rows } else { Rows::All };
            let frozen = self.frozen.is_some_and(|frozen| index < frozen);
            x = tape.unrecorded(frozen, |tape| self.layer(tape, batch, part, x, rows))?;
        }
        tape.enter_layer(None);
        Ok(x)
    }

    fn embed(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>) -> Result<Tensor> {
        // [PAD] learns nothing from being looked up.
        let options = ops::Embedding { padding: Some(0), hidden_by: None };
        let tables = self.layout.embeddings.map(Some);
        let embedded = ops::embedding(tape, &self.parameters, batch, tables, options)?;
        let embedded =
            ops::layernorm(tape, &self.parameters, embedded, Summands::default(), self.layout.embedding_norm)?;
        ops::dropout(tape, embedded, self.config.hidden_dropout_prob)
    }

    /// One encoder layer. With [`Rows::OfHead`] the output has only the rows that the head reads: what follows the
    /// attention works row by row, so the others need not be computed.
    fn layer(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>, layer: &Layer, x: Tensor, rows: Rows) -> Result<Tensor> {
        let activated = match self.recompute {
            Recompute::Gelu => Activated::Again,
            Recompute::None | Recompute::Layer => Activated::Kept,
        };
        if self.recompute != Recompute::Layer {
            return Self::compute_layer(tape, &self.parameters, &self.config, batch, layer, x, (rows, activated));
        }
        let (config, batch, layer) = (self.config.clone(), Rc::clone(batch), layer.clone());
        tape.recompute(&self.parameters, move |tape, parameters| {
            Self::compute_layer(tape, parameters, &config, &batch, &layer, x, (rows, activated))
        })
    }

    fn compute_layer(
        tape: &mut Tape,
        parameters: &Parameters,
        config: &Config,
        batch: &Rc<DeviceBatch>,
        layer: &Layer,
        x: Tensor,
        (rows, activated): (Rows, Activated),
    ) -> Result<Tensor> {
        let dropout = config.hidden_dropout_prob;
        let qkv = ops::qkv(tape, parameters, x, layer.qkv.weight, layer.qkv.bias)?;
        let (heads, p) = (config.num_attention_heads, config.attention_probs_dropout_prob);
        let mut attended = ops::attention(tape, batch, qkv, heads, p, &ops::AttentionHooks::default())?;
        let mut x = x;
        if rows == Rows::OfHead {
            attended = ops::gather(tape, batch, attended)?;
            x = ops::gather(tape, batch, x)?;
        }
        // The biases of a block's last product are added by the LayerNorm behind it.
        let (last, up, down) = (layer.attention_output, layer.intermediate, layer.output);
        let attended = ops::linear(tape, parameters, attended, last.weight, None)?;
        let summands = Summands { bias: Some(last.bias), residual: Some(x), dropout };
        let attended = ops::layernorm(tape, parameters, attended, summands, layer.attention_norm)?;
        let (up, down_weight) = ((up.weight, up.bias), down.weight);
        let output = ops::feed_forward(tape, parameters, attended, up, down_weight, Gelu::Exact, activated)?;
        let summands = Summands { bias: Some(down.bias), residual: Some(attended), dropout };
        ops::layernorm(tape, parameters, output, summands, layer.output_norm)
    }

    /// The head's logits for `batch.rows`: `[rows, classes]`; without a head, their hidden states: `[rows, hidden]`.
    ///
    /// # Errors
    /// Those of the device.
    pub fn forward(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>) -> Result<Tensor> {
        let (parameters, config) = (&self.parameters, &self.config);
        let _pass = nvtx::range(|| Pass::Forward.name().into());
        let mut x = self.hidden(tape, batch, self.layout.layers.len(), Rows::OfHead)?;
        match &self.layout.head {
            HeadLayout::MaskedLm { transform, norm, bias } => {
                let x = ops::linear_gelu(tape, parameters, x, transform.weight, transform.bias, Gelu::Exact)?;
                let x = ops::layernorm(tape, parameters, x, Summands::default(), *norm)?;
                ops::logits(tape, parameters, x, self.layout.embeddings[0], *bias)
            }
            HeadLayout::Cls { pooler, classifier } => {
                let x = linear(tape, parameters, x, *pooler)?;
                let x = ops::tanh(tape, x)?;
                let x = ops::dropout(tape, x, config.hidden_dropout_prob)?;
                ops::logits(tape, parameters, x, classifier.weight, classifier.bias)
            }
            HeadLayout::Site { dense, classifier } => {
                if let Some(dense) = dense {
                    x = ops::linear_gelu(tape, parameters, x, dense.weight, dense.bias, Gelu::Exact)?;
                }
                // Still a part of what is frozen, where nothing is trained before it.
                let frozen = dense.is_none() && self.frozen == Some(self.layout.layers.len());
                let x = tape.unrecorded(frozen, |tape| ops::dropout(tape, x, config.hidden_dropout_prob))?;
                ops::logits(tape, parameters, x, classifier.weight, classifier.bias)
            }
            HeadLayout::Encoder => Ok(x),
        }
    }
}

/// Where the parameters of such a model lie, if there can be one.
fn layout(config: &Config, head: &Head, frozen: Option<usize>) -> Result<Layout> {
    config.validate()?;
    if !(1..=1 << 24).contains(&head.classes(config)) {
        return Err(Error::usage("a head with no classes", "give at least one class"));
    }
    if let Head::Site { hidden: Some(width), .. } = *head
        && !(1..=1 << 16).contains(&width)
    {
        return Err(Error::usage(format!("a head with a hidden layer of {width}"), "give a width from 1 to 65,536"));
    }
    let classes = head.classes(config) as f64 * config.hidden_size as f64;
    let weights = config.weights() as f64 + classes;
    host_memory::require(4.0 * weights, "a model of these sizes", "choose smaller sizes")?;
    Ok(Layout::new(config, head, frozen))
}

/// Which rows an encoder layer computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// Those of all tokens.
    All,
    /// Those that the head reads: `batch.rows`.
    OfHead,
}

fn linear(tape: &mut Tape, parameters: &Parameters, x: Tensor, layer: super::layout::Linear) -> Result<Tensor> {
    ops::linear(tape, parameters, x, layer.weight, Some(layer.bias))
}

/// FNV-1a: a fixed hash of a parameter's name.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
