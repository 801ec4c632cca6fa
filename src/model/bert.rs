//! The encoder and its heads, written with the operations of [`crate::ops`]: BERT, and by the choices of an [`Architecture`] its relatives.

use std::rc::Rc;

use super::layout::{HeadLayout, Layer, Layout, Linear, Transform};
use super::{
    Architecture, Attending, Config, EmbeddingEnd, Family, FeedForward, Head, Lora, NormPlace, Positions, Trained,
};
use crate::autograd::{DeviceBatch, Matrix, Parameters, Pass, Spec, Tape, Tensor};
use crate::device::attention_kernels::AttentionKernels;
use crate::device::attention_pattern::AttentionPattern;
use crate::device::big_bird::BigBird;
use crate::device::{Buffer, DType, Device, host_memory, nvtx};
use crate::kmer::batch::Batch;
use crate::ops::{
    self, Activated, Adapters, AlibiBias, AttentionHooks, Embedding, Gate, Gelu, Qkv, SparseBlocks, Summands,
};
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
    trained: Trained,
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
        let layout = layout(&config, &head, &Trained::Everything)?;
        let parameters = Parameters::zeros(layout.specs.clone(), layout.decayed, dtype);
        Ok(Self { config, head, parameters, recompute: Recompute::default(), trained: Trained::Everything, layout })
    }

    /// A model with BERT's initial weights: matrices N(0, `initializer_range`), the padding row of the words zero, biases 0,
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
            let (first, hidden) = (self.config.architecture.padding, self.config.hidden_size);
            let is_words = self.layout.embeddings[0].is_some_and(|words| words.offset == spec.offset);
            let padding = if is_words { first * hidden..(first + 1) * hidden } else { 0..0 };
            let is_scale =
                spec.name.to_ascii_lowercase().ends_with("norm.weight") || spec.name.ends_with("norm_after.weight");
            let value = |index: usize| match spec.shape.len() {
                2 if padding.contains(&index) => 0.0,
                2 => deviation * philox.normal(index as u64),
                _ if is_scale => 1.0,
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
        Ok(layout(config, head, &Trained::Everything)?.specs)
    }

    /// Freezes the embeddings and this many layers above them, from below; `None`: nothing. What is frozen has no gradient, no moments and no
    /// decay, and nothing goes back through it. Dropout works in it as elsewhere. The weights must lie on the host.
    ///
    /// # Errors
    /// [`Error::Usage`] if there are not as many layers, and for masked-language modelling, which trains the embeddings as its decoder.
    pub fn freeze(&mut self, frozen: Option<usize>) -> Result<()> {
        if frozen == self.frozen() && self.lora().is_none() {
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
        self.lay_out(frozen.map_or(Trained::Everything, Trained::Above))
    }

    /// Gives the encoder adapters, or other ones, and freezes it and the embeddings: what is trained is the adapters and the head. A is drawn
    /// as peft draws it, uniform within `1 / sqrt(in)`, at its index in the stream of its name; B is 0, so that the model is what it was. The
    /// weights must lie on the host.
    ///
    /// # Errors
    /// [`Error::Usage`] for adapters that do not fit the model, and without a classifier.
    pub fn adapt(&mut self, lora: &Lora, seed: u64) -> Result<()> {
        if !matches!(self.head, Head::Cls { .. } | Head::Site { .. }) {
            return Err(Error::usage("adapters of a model without a classifier", "train those of a classifier"));
        }
        lora.check(&self.config)?;
        if self.lora().is_some() {
            self.lay_out(Trained::Everything)?;
        }
        self.lay_out(Trained::Adapters(lora.clone()))?;
        let dtype = self.parameters.values.dtype();
        for spec in self.parameters.specs.iter().filter(|spec| spec.name.ends_with(".lora_A.weight")) {
            let philox = Philox::new(seed, name_hash(&spec.name), Purpose::Init as u32);
            let bound = 1.0 / (spec.shape[1] as f64).sqrt();
            ops::for_real!(dtype, T => {
                let weights = &mut self.parameters.values.slice_mut::<T>()[spec.range()];
                let value = |index: usize| bound * (2.0 * philox.uniform(index as u64) - 1.0);
                weights.iter_mut().enumerate().for_each(|(index, weight)| *weight = value(index) as T);
            });
        }
        Ok(())
    }

    /// Adds the adapters to the matrices that they are of, where there are any; then nothing is frozen. The weights must lie on the host, in
    /// f32.
    ///
    /// # Errors
    /// As [`Model::zeros`].
    pub fn merge(&mut self) -> Result<()> {
        if let Trained::Adapters(lora) = &self.trained {
            lora.merge(&self.config, &self.parameters.specs, self.parameters.values.slice_mut())?;
            self.lay_out(Trained::Everything)?;
        }
        Ok(())
    }

    /// Moves the weights to where they lie when this is trained.
    fn lay_out(&mut self, trained: Trained) -> Result<()> {
        let layout = layout(&self.config, &self.head, &trained)?;
        let (old, dtype) = (&self.parameters, self.parameters.values.dtype());
        let mut new = Parameters::zeros(layout.specs.clone(), layout.decayed, dtype);
        new.gradients = Buffer::zeros(layout.trained, dtype);
        ops::for_real!(dtype, T => {
            for spec in &new.specs {
                let Some(before) = old.find(&spec.name) else { continue };
                new.values.slice_mut::<T>()[spec.range()].copy_from_slice(&old.values.slice()[before.range()]);
            }
        });
        (self.parameters, self.layout, self.trained) = (new, layout, trained);
        Ok(())
    }

    /// Layers that nothing goes back through, and the embeddings with them; `None` if something goes back to these. With adapters: 0.
    pub fn frozen(&self) -> Option<usize> {
        self.trained.unrecorded()
    }

    /// The adapters, if it has any.
    pub fn lora(&self) -> Option<&Lora> {
        self.trained.lora()
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
    /// the layer above needs no gradient of its input. Beside adapters matrices have no gradient.
    pub fn training_flops(&self, batch: &DeviceBatch) -> f64 {
        let (hidden, layers) = (self.config.hidden_size, self.config.num_hidden_layers);
        let (tokens, rows) = (batch.tokens.len() as f64, batch.rows.len() as f64);
        let qkv = 3 * hidden * hidden;
        let after_attention = hidden * (hidden + self.config.up_rows() + self.config.intermediate_size);
        let head = match &self.layout.head {
            HeadLayout::MaskedLm { .. } => hidden * (hidden + self.config.vocab_size),
            HeadLayout::Cls { pooler, classifier } => hidden * (pooler.weight.rows + classifier.weight.rows),
            HeadLayout::Site { dense, classifier } => {
                dense.map_or(0, |dense| dense.weight.rows * hidden) + classifier.weight.rows * classifier.weight.columns
            }
            HeadLayout::Transformed { classifier, .. } => hidden * (hidden + classifier.weight.rows),
            HeadLayout::Encoder => 0,
        };
        // Where blocks are left out, about what is left: that of a block in the middle for every token.
        let sparse = self.big_bird(0, true).filter(|pattern| pattern.is_sparse(batch.longest));
        let seen = sparse.map(|BigBird { block, random, .. }| (5 + random) * block);
        let pairs = |layer: usize| match seen.or(self.config.architecture.window(layer).map(|reach| 2 * reach + 1)) {
            Some(seen) => (tokens * seen as f64).min(batch.pairs as f64),
            None => batch.pairs as f64,
        };
        let lowest = self.frozen();
        let layer = |layer: usize| {
            let attention = if layer < lowest.unwrap_or(0) { 2.0 } else { 6.0 };
            let passes = if self.lora().is_some() { 4.0 } else { attention };
            let needless = if lowest == Some(layer) { 2.0 } else { 0.0 };
            let others = if layer + 1 == layers { rows } else { tokens };
            let adapters = self.layout.layers[layer].adapters.weights();
            let [of_qkv, of_others] = adapters.map(|weights| 6.0 * weights as f64);
            tokens * ((passes - needless) * qkv as f64 + of_qkv)
                + others * (passes * after_attention as f64 + of_others)
                + 2.0 * attention * hidden as f64 * pairs(layer)
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

    /// The encoder: the embeddings' output and every layer's, `[total_tokens, hidden]` each; the last behind the last LayerNorm.
    ///
    /// # Errors
    /// Those of the device.
    pub fn encode(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>) -> Result<Vec<Tensor>> {
        let hooks = self.hooks(tape, batch, self.layout.layers.len())?;
        let mut hidden = vec![self.embed(tape, batch)?];
        for (layer, hooks) in hooks.into_iter().enumerate() {
            hidden.push(self.layer(tape, batch, layer, hooks, hidden[hidden.len() - 1], Rows::All)?);
        }
        if let Some(last) = hidden.last_mut() {
            *last = self.last_norm(tape, *last)?;
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
    pub fn queries_keys_values(
        &self,
        tape: &mut Tape,
        batch: &Rc<DeviceBatch>,
        input: Tensor,
        layer: usize,
    ) -> Result<Tensor> {
        let (part, mut x) = (&self.layout.layers[layer], input);
        if let (NormPlace::Pre, Some(norm)) = (self.config.architecture.norm, part.attention_norm) {
            x = ops::layernorm_beside(tape, &self.parameters, x, norm)?;
        }
        let pass = self.pass(layer, AttentionHooks::default(), Rows::All);
        Ok(pass.queries_keys_values(tape, &self.parameters, batch, x)?.values)
    }

    /// The output of layer `layer` (0: of the embeddings), `[total_tokens, hidden]`, or with [`Rows::OfHead`] only of
    /// `batch.rows`. The layers behind it are not computed.
    ///
    /// # Errors
    /// Those of the device.
    pub fn hidden(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>, layer: usize, rows: Rows) -> Result<Tensor> {
        let hooks = self.hooks(tape, batch, layer)?;
        let mut x = tape.unrecorded(self.frozen().is_some(), |tape| self.embed(tape, batch))?;
        if layer == 0 && rows == Rows::OfHead {
            return ops::gather(tape, batch, x);
        }
        for (index, hooks) in hooks.into_iter().enumerate() {
            tape.keep_only(&[x]);
            tape.enter_layer(Some(index));
            let rows = if index + 1 == layer { rows } else { Rows::All };
            let frozen = self.frozen().is_some_and(|frozen| index < frozen);
            x = tape.unrecorded(frozen, |tape| self.layer(tape, batch, index, hooks, x, rows))?;
        }
        tape.enter_layer(None);
        if layer == self.layout.layers.len() {
            let frozen = self.frozen() == Some(layer);
            x = tape.unrecorded(frozen, |tape| self.last_norm(tape, x))?;
        }
        Ok(x)
    }

    fn embed(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>) -> Result<Tensor> {
        let (parameters, config) = (&self.parameters, &self.config);
        let Architecture { embedding_end, positions, hidden_by, padding, .. } = config.architecture;
        let [words, mut table, types] = self.layout.embeddings;
        if let (Positions::Learned { offset }, Some(table)) = (positions, &mut table) {
            table.offset += offset * table.columns;
            table.rows -= offset;
        }
        let options = Embedding { padding: Some(padding), hidden_by };
        let mut x = ops::embedding(tape, parameters, batch, [words, table, types], options)?;
        if embedding_end == EmbeddingEnd::DropoutNorm {
            x = ops::dropout(tape, x, config.hidden_dropout_prob)?;
        }
        if let Some(norm) = self.layout.embedding_norm {
            x = ops::layernorm(tape, parameters, x, Summands::default(), norm)?;
        }
        match embedding_end {
            EmbeddingEnd::NormDropout => ops::dropout(tape, x, config.hidden_dropout_prob),
            EmbeddingEnd::DropoutNorm | EmbeddingEnd::Plain => Ok(x),
        }
    }

    /// The LayerNorm behind the last layer, where there is one.
    fn last_norm(&self, tape: &mut Tape, x: Tensor) -> Result<Tensor> {
        match self.layout.last_norm {
            Some(norm) => ops::layernorm(tape, &self.parameters, x, Summands::default(), norm),
            None => Ok(x),
        }
    }

    /// ALiBi's slopes, `[heads]`, if its attention has them.
    pub fn alibi_slopes(&self) -> Option<Vec<f64>> {
        let is_alibi = self.config.architecture.positions == Positions::Alibi;
        is_alibi.then(|| AlibiBias::standard_slopes(self.config.num_attention_heads))
    }

    /// What attention adds to the plain formula in each of the first `layers` layers.
    fn hooks(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>, layers: usize) -> Result<Vec<AttentionHooks>> {
        let alibi = |slopes: Vec<f64>| {
            tape.once(|known: &AlibiBias| known.slopes() == slopes, |device| AlibiBias::new(device, &slopes))
        };
        let bias = self.alibi_slopes().map(alibi).transpose()?;
        let mut hooks = vec![AttentionHooks { bias, ..AttentionHooks::default() }; layers];
        if let Some(pattern) = self.big_bird(0, tape.is_training()).filter(|pattern| pattern.is_sparse(batch.longest)) {
            let heads = self.config.num_attention_heads;
            let patterns = SparseBlocks::big_bird(tape, batch, &pattern, heads, layers)?;
            hooks.iter_mut().zip(patterns).for_each(|(hooks, pattern)| hooks.pattern = Some(pattern));
        }
        if let Attending::Window { reach, .. } = self.config.architecture.attending
            && batch.longest > reach + 1
            && layers > 0
        {
            let pattern = Rc::new(SparseBlocks::new(tape, batch, &AttentionPattern::window(reach))?);
            for (layer, hooks) in hooks.iter_mut().enumerate() {
                hooks.window = self.config.architecture.window(layer);
                hooks.pattern = hooks.window.map(|_| Rc::clone(&pattern));
            }
        }
        Ok(hooks)
    }

    /// The pattern of a layer, if the model has one.
    pub fn big_bird(&self, layer: usize, training: bool) -> Option<BigBird> {
        let positions = self.config.max_position_embeddings;
        match self.config.architecture.attending {
            Attending::Full | Attending::Window { .. } => None,
            Attending::BlockSparse { block, random } => {
                Some(BigBird { block, random, positions, layer: layer as u32, training })
            }
        }
    }

    /// One encoder layer. With [`Rows::OfHead`] the output has only the rows that the head reads: what follows the
    /// attention works row by row, so the others need not be computed.
    fn layer(
        &self,
        tape: &mut Tape,
        batch: &Rc<DeviceBatch>,
        index: usize,
        hooks: AttentionHooks,
        x: Tensor,
        rows: Rows,
    ) -> Result<Tensor> {
        let pass = self.pass(index, hooks, rows);
        let batch = Rc::clone(batch);
        if self.recompute != Recompute::Layer {
            return pass.compute(tape, &self.parameters, &batch, x);
        }
        tape.recompute(&self.parameters, move |tape, parameters| pass.compute(tape, parameters, &batch, x))
    }

    fn pass(&self, index: usize, hooks: AttentionHooks, rows: Rows) -> LayerPass {
        let activated = match self.recompute {
            Recompute::Gelu => Activated::Again,
            Recompute::None | Recompute::Layer => Activated::Kept,
        };
        let rotary_base = self.config.architecture.rotary_base(index);
        let layer = self.layout.layers[index].clone();
        LayerPass { config: self.config.clone(), hooks, rotary_base, layer, rows, activated }
    }

    /// GELU of a linear layer, and LayerNorm of that.
    fn transform(&self, tape: &mut Tape, x: Tensor, Transform { dense, norm }: Transform) -> Result<Tensor> {
        let x = ops::linear_gelu(tape, &self.parameters, x, dense.weight, dense.bias, gelu(&self.config))?;
        ops::layernorm(tape, &self.parameters, x, Summands::default(), norm)
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
            HeadLayout::MaskedLm { transform, decoder } => {
                let x = self.transform(tape, x, *transform)?;
                ops::logits(tape, parameters, x, decoder.weight, decoder.bias)
            }
            HeadLayout::Cls { pooler, classifier } => {
                let x = match config.architecture.family {
                    Family::BigBird => {
                        let x = ops::dropout(tape, x, config.hidden_dropout_prob)?;
                        ops::linear_gelu(tape, parameters, x, pooler.weight, pooler.bias, gelu(config))?
                    }
                    _ => {
                        let x = linear(tape, parameters, x, *pooler)?;
                        ops::tanh(tape, x)?
                    }
                };
                let x = ops::dropout(tape, x, config.hidden_dropout_prob)?;
                ops::logits(tape, parameters, x, classifier.weight, classifier.bias)
            }
            HeadLayout::Site { dense, classifier } => {
                if let Some(dense) = dense {
                    x = ops::linear_gelu(tape, parameters, x, dense.weight, dense.bias, Gelu::Exact)?;
                }
                // Still a part of what is frozen, where nothing is trained before it.
                let frozen = dense.is_none() && self.frozen() == Some(self.layout.layers.len());
                let x = tape.unrecorded(frozen, |tape| ops::dropout(tape, x, config.hidden_dropout_prob))?;
                ops::logits(tape, parameters, x, classifier.weight, classifier.bias)
            }
            HeadLayout::Transformed { transform, classifier } => {
                let x = self.transform(tape, x, *transform)?;
                let x = ops::dropout(tape, x, config.hidden_dropout_prob)?;
                ops::logits(tape, parameters, x, classifier.weight, classifier.bias)
            }
            HeadLayout::Encoder => Ok(x),
        }
    }
}

/// One encoder layer, with all that it reads but weights and batch.
struct LayerPass {
    config: Config,
    hooks: AttentionHooks,
    /// Of the angles of rotary positions, where it has them.
    rotary_base: Option<f64>,
    layer: Layer,
    rows: Rows,
    activated: Activated,
}

impl LayerPass {
    fn compute(&self, tape: &mut Tape, parameters: &Parameters, batch: &Rc<DeviceBatch>, x: Tensor) -> Result<Tensor> {
        match self.config.architecture.norm {
            NormPlace::Post => self.norm_behind(tape, parameters, batch, x),
            NormPlace::Pre => self.norm_before(tape, parameters, batch, x),
        }
    }

    /// The biases of a block's last product are added by the LayerNorm behind it.
    fn norm_behind(
        &self,
        tape: &mut Tape,
        parameters: &Parameters,
        batch: &Rc<DeviceBatch>,
        x: Tensor,
    ) -> Result<Tensor> {
        let (layer, dropout) = (&self.layer, self.config.hidden_dropout_prob);
        let (attended, summands) = self.attend(tape, parameters, batch, x, x)?;
        let norm = layer.attention_norm.expect("there is a LayerNorm behind every block");
        let attended = ops::layernorm(tape, parameters, attended, summands, norm)?;
        let output = self.feed_forward(tape, parameters, attended)?;
        let summands = Summands { bias: layer.down.bias, residual: Some(attended), dropout };
        ops::layernorm(tape, parameters, output, summands, layer.output_norm)
    }

    /// What goes from layer to layer is the sum that no LayerNorm has touched.
    fn norm_before(
        &self,
        tape: &mut Tape,
        parameters: &Parameters,
        batch: &Rc<DeviceBatch>,
        x: Tensor,
    ) -> Result<Tensor> {
        let (layer, dropout) = (&self.layer, self.config.hidden_dropout_prob);
        let normed = match layer.attention_norm {
            Some(norm) => ops::layernorm_beside(tape, parameters, x, norm)?,
            None => x,
        };
        let (attended, summands) = self.attend(tape, parameters, batch, normed, x)?;
        let (normed, sum) = ops::layernorm_and_sum(tape, parameters, attended, summands, layer.output_norm)?;
        let output = self.feed_forward(tape, parameters, normed)?;
        let summands = Summands { bias: layer.down.bias, residual: Some(sum), dropout };
        ops::residual(tape, parameters, output, summands)
    }

    /// Attention over `input` without its last bias, of the rows that are wanted, and what is to be added to it: that bias, and `x` as it was.
    fn attend(
        &self,
        tape: &mut Tape,
        parameters: &Parameters,
        batch: &Rc<DeviceBatch>,
        input: Tensor,
        x: Tensor,
    ) -> Result<(Tensor, Summands)> {
        let (config, layer) = (&self.config, &self.layer);
        let qkv = self.queries_keys_values(tape, parameters, batch, input)?;
        // transformers drops no probabilities where BigBird's blocks are left out.
        let drops = self.hooks.pattern.is_none() || self.hooks.window.is_some();
        let dropout = if drops { config.attention_probs_dropout_prob } else { 0.0 };
        let attended = ops::attention(tape, batch, qkv, config.num_attention_heads, dropout, &self.hooks)?;
        let attended = self.of_head(tape, batch, attended)?;
        let residual = Some(self.of_head(tape, batch, x)?);
        let Linear { weight, bias } = layer.attention_output;
        let attended = self.product(tape, parameters, attended, weight, &layer.adapters.attention_output)?;
        Ok((attended, Summands { bias, residual, dropout: config.hidden_dropout_prob }))
    }

    /// Queries, keys and values, `[total_tokens, 3 hidden]`, as attention takes them.
    fn queries_keys_values(
        &self,
        tape: &mut Tape,
        parameters: &Parameters,
        batch: &Rc<DeviceBatch>,
        x: Tensor,
    ) -> Result<Qkv> {
        let Layer { qkv: Linear { weight, bias }, adapters, .. } = &self.layer;
        match self.rotary_base {
            // The bias is added before the rotation, so attention cannot sum its gradient.
            Some(base) => {
                let qkv = ops::linear(tape, parameters, x, *weight, *bias)?;
                let qkv = adapted(tape, parameters, qkv, x, &adapters.qkv)?;
                Ok(ops::rotary(tape, batch, qkv, self.config.num_attention_heads, base)?.into())
            }
            None => {
                let Qkv { values, bias } = ops::qkv(tape, parameters, x, *weight, *bias)?;
                let values = adapted(tape, parameters, values, x, &adapters.qkv)?;
                Ok(Qkv { values, bias })
            }
        }
    }

    fn of_head(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>, x: Tensor) -> Result<Tensor> {
        match self.rows {
            Rows::All => Ok(x),
            Rows::OfHead => ops::gather(tape, batch, x),
        }
    }

    /// Without its last bias, which what follows adds.
    fn feed_forward(&self, tape: &mut Tape, parameters: &Parameters, x: Tensor) -> Result<Tensor> {
        let (Layer { up, down, adapters, .. }, dropout) = (&self.layer, self.config.hidden_dropout_prob);
        // Adapters stand between a product and what is fused with it.
        let is_fused = adapters.up.is_none() && adapters.down.is_none();
        let gate = match self.config.architecture.feed_forward {
            FeedForward::Geglu => Gate::Gelu,
            FeedForward::Swiglu => Gate::Silu,
            FeedForward::Gelu | FeedForward::GeluTanh => {
                let bias = up.bias.expect("ungated blocks have a bias");
                let gelu = gelu(&self.config);
                if !is_fused {
                    let x = self.product(tape, parameters, x, up.weight, &adapters.up)?;
                    let x = ops::gelu(tape, parameters, x, Some(bias), gelu)?;
                    return self.product(tape, parameters, x, down.weight, &adapters.down);
                }
                return ops::feed_forward(tape, parameters, x, (up.weight, bias), down.weight, gelu, self.activated);
            }
        };
        if !is_fused {
            let x = self.product(tape, parameters, x, up.weight, &adapters.up)?;
            let x = ops::gated(tape, x, gate, dropout)?;
            return self.product(tape, parameters, x, down.weight, &adapters.down);
        }
        ops::gated_feed_forward(tape, parameters, x, up.weight, down.weight, gate, dropout)
    }

    /// `x W^T`, and what adapters add to it.
    fn product(
        &self,
        tape: &mut Tape,
        parameters: &Parameters,
        x: Tensor,
        weight: Matrix,
        adapters: &Option<Adapters>,
    ) -> Result<Tensor> {
        let y = ops::linear(tape, parameters, x, weight, None)?;
        adapted(tape, parameters, y, x, adapters)
    }
}

/// `y`, a product of `x`, with what adapters add to it.
fn adapted(
    tape: &mut Tape,
    parameters: &Parameters,
    y: Tensor,
    x: Tensor,
    adapters: &Option<Adapters>,
) -> Result<Tensor> {
    match adapters {
        Some(adapters) => ops::low_rank(tape, parameters, y, x, adapters),
        None => Ok(y),
    }
}

fn gelu(config: &Config) -> Gelu {
    match config.architecture.feed_forward {
        FeedForward::GeluTanh => Gelu::Tanh,
        FeedForward::Gelu | FeedForward::Geglu | FeedForward::Swiglu => Gelu::Exact,
    }
}

/// Where the parameters of such a model lie, if there can be one.
fn layout(config: &Config, head: &Head, trained: &Trained) -> Result<Layout> {
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
    Ok(Layout::new(config, head, trained))
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
    ops::linear(tape, parameters, x, layer.weight, layer.bias)
}

/// FNV-1a: a fixed hash of a parameter's name.
fn name_hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}
