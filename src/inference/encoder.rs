//! Hidden states of windows, on all threads.

use std::path::Path;
use std::sync::Arc;

use crate::autograd::Tape;
use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::model::{Model, Rows};
use crate::tokenizer::Tokenizer;
use crate::train::apply::require_numbers;
use crate::train::checkpoint::{self, Checkpoint};
use crate::{Error, Result};

use super::batches::{Batches, Groups};
use super::workers::Workers;

/// Tokens that a thread of the CPU works on at a time: their activations fit its cache, and weights that do not are read
/// once for all of them.
const CPU_TOKENS: usize = 2048;

/// Tokens that a GPU works on at a time.
const DEVICE_TOKENS: usize = 1 << 16;

/// A model's encoder, ready to compute hidden states.
pub struct Encoder {
    model: Arc<Model>,
    vocabulary: Arc<dyn Tokenizer>,
    workers: Arc<Workers>,
    batch_tokens: usize,
}

impl Encoder {
    /// Reads a model folder, for use on the CPU.
    ///
    /// # Errors
    /// As [`checkpoint::load`] and [`Encoder::new`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self> {
        Self::new(checkpoint::load(path.as_ref())?, Device::Cpu, DType::F32)
    }

    /// Moves a model to `device`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a model with too few positions for a single token; those of the device.
    pub fn new(checkpoint: Checkpoint, device: Device, dtype: DType) -> Result<Self> {
        let Checkpoint { mut model, vocabulary, .. } = checkpoint;
        model.parameters.move_to(&device, dtype)?;
        let workers = Arc::new(Workers::new(device.clone(), dtype)?);
        Self::of(Arc::new(model), vocabulary, &device, workers)
    }

    /// As [`Encoder::new`], of a model that is on `device` already.
    pub(super) fn of(
        model: Arc<Model>,
        vocabulary: Arc<dyn Tokenizer>,
        device: &Device,
        workers: Arc<Workers>,
    ) -> Result<Self> {
        let positions = model.config.max_position_embeddings;
        let least = vocabulary.specials().frame() + 1;
        if positions < least {
            let found = format!("a model of {positions} positions, which holds no token between special ones");
            return Err(Error::usage(found, format!("use a model with at least {least} positions")));
        }
        let batch_tokens = if matches!(device, Device::Cpu) { CPU_TOKENS } else { DEVICE_TOKENS };
        Ok(Self { model, vocabulary, workers, batch_tokens })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its tokenizer.
    pub fn vocabulary(&self) -> &dyn Tokenizer {
        &*self.vocabulary
    }

    /// The most tokens that it reads at once, special ones not counted.
    pub fn longest(&self) -> usize {
        self.model.config.max_position_embeddings - self.vocabulary.specials().frame()
    }

    /// Width of a hidden state.
    pub fn columns(&self) -> usize {
        self.model.config.hidden_size
    }

    /// Tokens that keep all threads busy: what to hand to [`Encoder::hidden`] at once.
    pub fn round_tokens(&self) -> usize {
        self.batch_tokens * 2 * self.workers.count()
    }

    /// The layer that `layer` means: 0 is the embeddings' output, 1 the first layer's; -1 is the last one's.
    ///
    /// # Errors
    /// [`Error::Usage`] for a layer that the model lacks.
    pub fn layer(&self, layer: i64) -> Result<usize> {
        let layers = self.model.config.num_hidden_layers as i64;
        let index = if layer < 0 { layers + 1 + layer } else { layer };
        match (0..=layers).contains(&index) {
            true => Ok(index as usize),
            false => Err(Error::usage(
                format!("--layer {layer}, where the model has {layers}"),
                format!("give 0 (the embeddings' output) to {layers}, or -1 to -{} from the last", layers + 1),
            )),
        }
    }

    /// The output of layer `layer` for windows of bases, each between special tokens: one `[rows, columns]` for each, the
    /// rows being those of its tokens, or of the first special one alone.
    ///
    /// # Errors
    /// [`Error::Usage`] for a window without a token or with more than [`Encoder::longest`]; those of the device.
    pub fn hidden<W: AsRef<[u8]> + Sync>(&self, windows: &[W], layer: usize, cls: bool) -> Result<Vec<Vec<f32>>> {
        let mut tokens = Vec::with_capacity(windows.len());
        for window in windows {
            let mut ids = Vec::new();
            self.vocabulary.encode(window.as_ref(), &mut ids);
            if !(1..=self.longest()).contains(&ids.len()) {
                let shortest = self.vocabulary.shortest();
                return Err(Error::usage(
                    format!("a window of {} bases, which are {} tokens", window.as_ref().len(), ids.len()),
                    match self.vocabulary.most_bases(self.longest()) {
                        Some(most) => format!("give {shortest} to {most}"),
                        None => format!("give {shortest} or more, and at most {} tokens", self.longest()),
                    },
                ));
            }
            tokens.push(ids);
        }
        let mut cut = self.cut();
        let frame = self.vocabulary.specials().frame();
        let begins: Vec<bool> = tokens.iter().map(|ids| cut.begins(ids.len() + frame)).collect();
        self.hidden_of_tokens(&tokens, &begins, layer, cls)
    }

    /// How windows that come one after the other are cut into batches, by their tokens with the special ones.
    pub(super) fn cut(&self) -> Batches {
        Batches::new(self.batch_tokens)
    }

    /// Tokens of a batch.
    pub fn batch_tokens(&self) -> usize {
        self.batch_tokens
    }

    /// How sequences that come one after the other are cut into groups, each of which begins a batch: some batches each, also of tokens
    /// of several bases.
    pub fn groups(&self) -> Groups {
        const BATCHES: usize = 32;
        Groups::new(BATCHES * self.batch_tokens)
    }

    /// As [`Encoder::hidden`], of windows that are tokens already, without special ones, and begin a batch or not.
    ///
    /// # Errors
    /// As [`Encoder::hidden`].
    pub(super) fn hidden_of_tokens<W: AsRef<[i32]> + Sync>(
        &self,
        windows: &[W],
        begins: &[bool],
        layer: usize,
        cls: bool,
    ) -> Result<Vec<Vec<f32>>> {
        let batches = self.batches(windows, begins);
        let rows = if cls { Rows::OfHead } else { Rows::All };
        let parts = self.workers.run(batches.len(), |tape, index| self.run(tape, &batches[index], layer, rows))?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Windows in the order given, in batches.
    fn batches<W: AsRef<[i32]>>(&self, windows: &[W], begins: &[bool]) -> Vec<Batch> {
        let specials = self.vocabulary.specials();
        let mut batches: Vec<Batch> = Vec::new();
        let mut tokens = Vec::new();
        for (window, &begins) in windows.iter().zip(begins) {
            tokens.clear();
            tokens.push(specials.cls);
            tokens.extend(window.as_ref());
            tokens.extend(specials.sep);
            if begins || batches.is_empty() {
                batches.push(Batch::new());
            }
            let Some(batch) = batches.last_mut() else { continue };
            let row = batch.push(&tokens);
            batch.rows.push(row);
        }
        batches
    }

    fn run(&self, tape: &mut Tape, batch: &Batch, layer: usize, rows: Rows) -> Result<Vec<Vec<f32>>> {
        tape.start_inference();
        let uploaded = self.model.upload(tape, batch)?;
        let hidden = self.model.hidden(tape, &uploaded, layer, rows)?;
        let values = tape.value(hidden).to_f32()?;
        require_numbers(values.iter().copied().map(f64::from))?;
        tape.recycle_batch(uploaded);
        let columns = hidden.columns;
        Ok(match rows {
            Rows::OfHead => values.chunks_exact(columns).map(<[f32]>::to_vec).collect(),
            Rows::All => {
                let ends = self.vocabulary.specials().frame() - 1;
                let inner = |pair: &[i32]| (pair[0] as usize + 1) * columns..(pair[1] as usize - ends) * columns;
                batch.cu_seqlens.windows(2).map(|pair| values[inner(pair)].to_vec()).collect()
            }
        })
    }
}
