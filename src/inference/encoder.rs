//! Hidden states of windows, on all threads.

use std::path::Path;

use crate::autograd::Tape;
use crate::device::{DType, Device};
use crate::kmer::batch::Batch;
use crate::kmer::vocabulary::{CLS, SEP, Vocabulary};
use crate::model::{Model, Rows};
use crate::train::apply::require_numbers;
use crate::train::checkpoint::{self, Checkpoint};
use crate::{Error, Result};

use super::workers::Workers;

/// Tokens that a thread of the CPU works on at a time: their activations fit its cache, and weights that do not are read
/// once for all of them.
const CPU_TOKENS: usize = 2048;

/// Tokens that a GPU works on at a time.
const DEVICE_TOKENS: usize = 1 << 16;

/// A model's encoder, ready to compute hidden states.
pub struct Encoder {
    model: Model,
    vocabulary: Vocabulary,
    workers: Workers,
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
    /// [`Error::Usage`] for a model with too few positions for a single k-mer; those of the device.
    pub fn new(checkpoint: Checkpoint, device: Device, dtype: DType) -> Result<Self> {
        let Checkpoint { mut model, vocabulary, .. } = checkpoint;
        let positions = model.config.max_position_embeddings;
        if positions < 3 {
            let found = format!("a model of {positions} positions, which holds no k-mer between [CLS] and [SEP]");
            return Err(Error::usage(found, "use a model with at least 3 positions"));
        }
        model.parameters.move_to(&device, dtype)?;
        let batch_tokens = if matches!(device, Device::Cpu) { CPU_TOKENS } else { DEVICE_TOKENS };
        Ok(Self { model, vocabulary, workers: Workers::new(device, dtype)?, batch_tokens })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Its vocabulary.
    pub fn vocabulary(&self) -> &Vocabulary {
        &self.vocabulary
    }

    /// The most k-mers that it reads at once.
    pub fn longest(&self) -> usize {
        self.model.config.max_position_embeddings - 2
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

    /// The output of layer `layer` for windows of bases, each as `[CLS] k-mers [SEP]`: one `[rows, columns]` for each, the
    /// rows being those of the k-mers, or of `[CLS]` alone. K-mers with anything but A, C, G, T are `[UNK]`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a window without a k-mer or with more than [`Encoder::longest`]; those of the device.
    pub fn hidden<W: AsRef<[u8]> + Sync>(&self, windows: &[W], layer: usize, cls: bool) -> Result<Vec<Vec<f32>>> {
        let batches = self.batches(windows)?;
        let rows = if cls { Rows::OfHead } else { Rows::All };
        let parts = self.workers.run(batches.len(), |tape, index| self.run(tape, &batches[index], layer, rows))?;
        Ok(parts.into_iter().flatten().collect())
    }

    /// Windows in the order given, in batches of at most so many tokens (or of one window).
    fn batches<W: AsRef<[u8]>>(&self, windows: &[W]) -> Result<Vec<Batch>> {
        let mut batches: Vec<Batch> = Vec::new();
        let mut tokens = Vec::new();
        for window in windows {
            tokens.clear();
            tokens.push(CLS);
            self.vocabulary.encode(window.as_ref(), &mut tokens);
            tokens.push(SEP);
            let length = tokens.len();
            if length < 3 || length > self.model.config.max_position_embeddings {
                let (k, bases) = (self.vocabulary.k(), window.as_ref().len());
                let most = self.longest() + k - 1;
                return Err(Error::usage(format!("a window of {bases} bases"), format!("give {k} to {most}")));
            }
            let open = batches.last_mut().filter(|batch| batch.total_tokens() + length <= self.batch_tokens);
            let batch = match open {
                Some(batch) => batch,
                None => {
                    batches.push(Batch::new());
                    let last = batches.len() - 1;
                    &mut batches[last]
                }
            };
            let row = batch.push(&tokens);
            batch.rows.push(row);
        }
        Ok(batches)
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
                let inner = |pair: &[i32]| (pair[0] as usize + 1) * columns..(pair[1] as usize - 1) * columns;
                batch.cu_seqlens.windows(2).map(|pair| values[inner(pair)].to_vec()).collect()
            }
        })
    }
}
