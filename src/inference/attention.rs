//! What a model looks at: attention from `[CLS]`, or from the token at the site in the middle, to every k-mer or base.
//!
//! Only the asked rows of the attention matrix are computed, for a few sequences at a time: memory grows with the length
//! of a sequence, not with its square, and not with the number of sequences.

use std::ops::Range;
use std::sync::Arc;

use clap::ValueEnum;
use serde::Serialize;

use super::workers::Workers;
use crate::autograd::Tape;
use crate::device::attention_pattern::BlockLists;
use crate::device::cpu::attention::{Shape, probabilities};
use crate::device::{DType, Device};
use crate::kmer::labelled::{Head, classification_batch, middle};
use crate::kmer::table::Limits;
use crate::model::{self, Model};
use crate::tokenizer::Tokenizer;
use crate::train::checkpoint::Checkpoint;
use crate::{Error, Result};

/// Bases that a worker looks at together.
const BASES: usize = 4096;

/// The token whose attention is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Query {
    /// `[CLS]`, as DNABERT does.
    Cls,
    /// The k-mer at the site in the middle.
    Site,
}

/// Which heads, and whether one by one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Heads {
    /// Their mean.
    Mean,
    /// Each.
    Each,
    /// One, from 0.
    One(usize),
}

/// What attention is told of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Unit {
    /// K-mers.
    #[default]
    Token,
    /// Bases: the mean of the k-mers over each.
    Nucleotide,
}

/// What is read from a model.
#[derive(Clone, Debug)]
pub struct Selection {
    /// From where.
    pub query: Query,
    /// In which layers, from 0.
    pub layers: Vec<usize>,
    /// Of which heads.
    pub heads: Heads,
    /// To what.
    pub unit: Unit,
}

impl Selection {
    /// Checks that the model has these layers and heads.
    ///
    /// # Errors
    /// [`Error::Usage`] with what there is.
    fn check(&self, config: &model::Config) -> Result<()> {
        let (layers, heads) = (config.num_hidden_layers, config.num_attention_heads);
        if let Some(layer) = self.layers.iter().find(|&&layer| layer >= layers) {
            return Err(Error::usage(format!("layer {}", layer + 1), format!("this model has layers 1 to {layers}")));
        }
        match self.heads {
            Heads::One(head) if head >= heads => {
                Err(Error::usage(format!("head {}", head + 1), format!("this model has heads 1 to {heads}")))
            }
            _ => Ok(()),
        }
    }

    /// The names of the columns of a [`Profile`], as `layer3_head1` or `layer3`.
    pub fn columns(&self, heads: usize) -> Vec<String> {
        let of_layer = |&layer: &usize| {
            let name = format!("layer{}", layer + 1);
            match self.heads {
                Heads::Mean => vec![name],
                Heads::Each => (0..heads).map(|head| format!("{name}_head{}", head + 1)).collect(),
                Heads::One(head) => vec![format!("{name}_head{}", head + 1)],
            }
        };
        self.layers.iter().flat_map(of_layer).collect()
    }
}

/// The attention to one sequence.
#[derive(Clone, Debug, PartialEq)]
pub struct Profile {
    /// The bases that were read: all, or the model's window in the middle.
    pub bases: Range<usize>,
    /// The bases of the sequence that each unit covers.
    pub units: Vec<Range<usize>>,
    /// `[columns][units]`: a column is a layer and a head, or the mean of its heads; a unit a token or a base of `bases`.
    /// What goes to special tokens is left out.
    pub columns: Vec<Vec<f32>>,
}

/// A model whose attention is read.
pub struct Observer {
    model: Model,
    vocabulary: Arc<dyn Tokenizer>,
    window: Option<usize>,
    selection: Selection,
    workers: Workers,
}

impl Observer {
    /// Prepares a model, a classifier or not. A classifier's window is cut from the middle of each sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for layers and heads that the model lacks; those of the device.
    pub fn new(checkpoint: Checkpoint, selection: Selection, device: Device, dtype: DType) -> Result<Self> {
        let Checkpoint { mut model, vocabulary, classification } = checkpoint;
        selection.check(&model.config)?;
        model.parameters.move_to(&device, dtype)?;
        let window = classification.and_then(|classification| classification.window);
        Ok(Self { model, vocabulary, window, selection, workers: Workers::new(device, dtype)? })
    }

    /// Its tokenizer.
    pub fn vocabulary(&self) -> &dyn Tokenizer {
        &*self.vocabulary
    }

    /// The same model, read in other layers, from 0.
    ///
    /// # Errors
    /// [`Error::Usage`] for layers that it lacks.
    pub fn in_layers(mut self, layers: Vec<usize>) -> Result<Self> {
        self.selection.layers = layers;
        self.selection.check(&self.model.config)?;
        Ok(self)
    }

    /// What is read.
    pub fn selection(&self) -> &Selection {
        &self.selection
    }

    /// Heads of a layer.
    pub fn heads(&self) -> usize {
        self.model.config.num_attention_heads
    }

    /// The fewest and the most bases of a sequence.
    pub fn lengths(&self) -> (usize, Option<usize>) {
        let positions = self.model.config.max_position_embeddings;
        let most = self.vocabulary.most_bases(positions.saturating_sub(self.vocabulary.specials().frame()));
        (self.window.unwrap_or(self.vocabulary.shortest()), most.filter(|_| self.window.is_none()))
    }

    /// What can be read of a sequence.
    pub fn limits(&self) -> Limits {
        let positions = self.model.config.max_position_embeddings;
        Limits { tokenizer: Arc::clone(&self.vocabulary), window: self.window, positions }
    }

    /// The bases that are read of a sequence of so many: all, or the model's window in the middle.
    pub fn read(&self, bases: usize) -> Range<usize> {
        middle(bases, self.window)
    }

    /// The attention to each sequence.
    ///
    /// # Errors
    /// [`Error::Usage`] for a sequence that is too short or too long; those of the device.
    pub fn profiles<W: AsRef<[u8]> + Sync>(&self, sequences: &[W]) -> Result<Vec<Profile>> {
        let mut pieces: Vec<Range<usize>> = Vec::new();
        let mut bases = 0;
        for (index, sequence) in sequences.iter().enumerate() {
            let length = self.window.unwrap_or(sequence.as_ref().len());
            match pieces.last_mut() {
                Some(piece) if bases + length <= BASES => {
                    piece.end += 1;
                    bases += length;
                }
                _ => {
                    pieces.push(index..index + 1);
                    bases = length;
                }
            }
        }
        let profiles = self.workers.run(pieces.len(), |tape, piece| {
            let sequences: Vec<_> = sequences[pieces[piece].clone()].iter().map(|s| (s.as_ref(), 0)).collect();
            self.piece(tape, &sequences)
        })?;
        Ok(profiles.into_iter().flatten().collect())
    }

    fn piece(&self, tape: &mut Tape, sequences: &[(&[u8], i32)]) -> Result<Vec<Profile>> {
        let head = match self.selection.query {
            Query::Cls => Head::Cls,
            Query::Site => Head::Site,
        };
        let batch = classification_batch(sequences, &*self.vocabulary, self.window, head)?;
        tape.start_inference();
        let uploaded = self.model.upload(tape, &batch)?;
        let states = self.model.encode(tape, &uploaded)?;
        let config = &self.model.config;
        let head_dim = config.hidden_size / config.num_attention_heads;
        let slopes = self.model.alibi_slopes();
        let shape = Shape {
            cu_seqlens: &batch.cu_seqlens,
            heads: config.num_attention_heads,
            head_dim,
            scale: 1.0 / (head_dim as f64).sqrt(),
            dropout: None,
            slopes: slopes.as_deref(),
            blocks: None,
            window: None,
        };
        let (mut profiles, mut spans) = (Vec::new(), Vec::new());
        for (bases, _) in sequences {
            let read = self.read(bases.len());
            let (mut ids, mut of_tokens) = (Vec::new(), Vec::new());
            self.vocabulary.encode_with_spans(&bases[read.clone()], &mut ids, &mut of_tokens);
            let units = match self.selection.unit {
                Unit::Token => {
                    let place = |span: &Range<u32>| read.start + span.start as usize..read.start + span.end as usize;
                    of_tokens.iter().map(place).collect()
                }
                Unit::Nucleotide => read.clone().map(|base| base..base + 1).collect(),
            };
            profiles.push(Profile { bases: read, units, columns: Vec::new() });
            spans.push(of_tokens);
        }
        for &layer in &self.selection.layers {
            let qkv = self.model.queries_keys_values(tape, &uploaded, states[layer], layer)?;
            // One row a sequence is asked for: a host does that faster than it would launch a kernel.
            let qkv = tape.value(qkv).to_f32()?;
            let blocks = match self.model.big_bird(layer, false) {
                Some(pattern) => Some(BlockLists::big_bird(&pattern, config.num_attention_heads, &batch.cu_seqlens)?),
                None => None,
            };
            let window = config.architecture.window(layer);
            let attention = probabilities(&qkv, Shape { blocks: blocks.as_ref(), window, ..shape }, &batch.rows);
            let mut rest = attention.as_slice();
            for ((profile, spans), ends) in profiles.iter_mut().zip(&spans).zip(batch.cu_seqlens.windows(2)) {
                let length = (ends[1] - ends[0]) as usize;
                let (own, later) = rest.split_at(length * config.num_attention_heads);
                rest = later;
                self.add_columns(profile, spans, own, length);
            }
        }
        Ok(profiles)
    }

    /// Appends the columns of one layer; `attention` is `[heads][length]`, special tokens included.
    fn add_columns(&self, profile: &mut Profile, spans: &[Range<u32>], attention: &[f32], length: usize) {
        let tokens = spans.len();
        let heads: Vec<&[f32]> = attention.chunks_exact(length).map(|head| &head[1..=tokens]).collect();
        let columns: Vec<Vec<f32>> = match self.selection.heads {
            Heads::One(head) => vec![heads[head].to_vec()],
            Heads::Each => heads.iter().map(|head| head.to_vec()).collect(),
            Heads::Mean => {
                let mean = |token: usize| heads.iter().map(|head| head[token]).sum::<f32>() / heads.len() as f32;
                vec![(0..tokens).map(mean).collect()]
            }
        };
        let k_mers = self.vocabulary.k_mers();
        profile.columns.extend(columns.into_iter().map(|column| match (self.selection.unit, k_mers) {
            (Unit::Token, _) => column,
            (Unit::Nucleotide, Some(k_mers)) => per_nucleotide(&column, k_mers.k()),
            (Unit::Nucleotide, None) => {
                spans.iter().zip(&column).flat_map(|(span, value)| span.clone().map(|_| *value)).collect()
            }
        }));
    }
}

/// For each base the mean over the k-mers that cover it.
pub fn per_nucleotide(k_mers: &[f32], k: usize) -> Vec<f32> {
    let bases = k_mers.len() + k - 1;
    let over = |base: usize| {
        let covering = &k_mers[(base + 1).saturating_sub(k)..(base + 1).min(k_mers.len())];
        covering.iter().sum::<f32>() / covering.len() as f32
    };
    (0..bases).map(over).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bases_get_the_mean_of_their_k_mers() {
        assert_eq!(per_nucleotide(&[1.0, 2.0, 6.0], 3), [1.0, 1.5, 3.0, 4.0, 6.0]);
        assert_eq!(per_nucleotide(&[1.0], 3), [1.0, 1.0, 1.0]);
        assert_eq!(per_nucleotide(&[1.0, 3.0, 5.0, 7.0], 2), [1.0, 2.0, 4.0, 6.0, 7.0]);
    }
}
