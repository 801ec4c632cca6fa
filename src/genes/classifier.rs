//! Do two genes interact? GGIPNN (Du et al., 2019): the vectors of both side by side through a small network, on the engine's own tape.

use std::rc::Rc;

use serde::{Deserialize, Serialize};

use super::labelled_pairs::{GeneNames, LabelledPair};
use super::vectors::GeneVectors;
use crate::autograd::{DeviceBatch, Matrix, Parameters, Spec, Tape, Tensor, Vector};
use crate::device::{Buffer, DType, Device, host_memory};
use crate::kmer::batch::Batch;
use crate::ops::{self, Embedding, Losses};
use crate::optim::{AdamW, AdamWConfig};
use crate::philox::{Philox, Purpose, shuffle};
use crate::report::Progress;
use crate::{Error, Result};

/// Classes: no interaction, interaction.
pub const CLASSES: usize = 2;
/// Pairs that are predicted at a time.
const PREDICTED: usize = 1024;

/// The shape of a classifier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Shape {
    /// Numbers of a gene's vector.
    pub dimension: usize,
    /// Sizes of the layers between the two vectors and the classes.
    pub hidden: Vec<usize>,
}

/// How a classifier is trained. The default is GGIPNN's.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct Training {
    /// Rounds over the pairs.
    pub epochs: u32,
    /// Pairs of an update.
    pub batch: usize,
    /// Adam's learning rate.
    pub learning_rate: f64,
    /// Decoupled decay of the weights.
    pub weight_decay: f64,
    /// Share of each hidden layer that is dropped.
    pub dropout: f64,
    /// What biases begin with.
    pub bias: f64,
    /// Numbers of a gene without a vector are drawn between minus this and this.
    pub missing_range: f64,
    /// Whether the vectors are trained, too.
    pub tune: bool,
    /// Seed of all that is drawn.
    pub seed: u64,
}

impl Default for Training {
    fn default() -> Self {
        Self {
            epochs: 1,
            batch: 128,
            learning_rate: 1e-3,
            weight_decay: 0.0,
            dropout: 0.5,
            bias: 0.1,
            missing_range: 0.25,
            tune: false,
            seed: 42,
        }
    }
}

/// The vectors of genes, those that had none drawn at random.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// The genes.
    pub genes: GeneNames,
    /// `[genes, dimension]`.
    pub values: Vec<f32>,
}

impl Table {
    /// The vectors, and behind them those of `names` that have none, drawn from `±range`. The second are counted.
    pub fn new(vectors: GeneVectors, names: &[String], range: f64, seed: u64) -> (Self, usize) {
        let GeneVectors { genes, dimension, mut values } = vectors;
        let known = genes.len();
        let mut genes: GeneNames = genes.into_iter().collect();
        for name in names {
            genes.number(name);
        }
        let missing = genes.names.len() - known;
        let philox = Philox::of(seed, 0, Purpose::RandomVectors);
        let drawn = (0..missing * dimension).map(|at| ((2.0 * philox.uniform(at as u64) - 1.0) * range) as f32);
        values.extend(drawn);
        (Self { genes, values }, missing)
    }
}

/// A classifier of pairs of genes. Its parameters are the layers' weights, `[out, in]`, their biases, and the genes' vectors, `[genes, dimension]`.
pub struct Classifier {
    /// Its shape.
    pub shape: Shape,
    /// Its parameters.
    pub parameters: Parameters,
    layers: Vec<(Matrix, Vector)>,
    table: Matrix,
}

impl Classifier {
    /// Zero weights, and the genes' vectors, which are trained if `tune`.
    ///
    /// # Errors
    /// [`Error::Usage`] for a layer of no size, and for one that no machine has memory for.
    pub fn zeros(shape: Shape, table: &[f32], tune: bool) -> Result<Self> {
        let sizes: Vec<usize> =
            [2 * shape.dimension].into_iter().chain(shape.hidden.iter().copied()).chain([CLASSES]).collect();
        if sizes.contains(&0) {
            return Err(Error::usage(format!("layers of sizes {sizes:?}"), "give layers of one number or more"));
        }
        let weights: f64 = sizes.windows(2).map(|pair| pair[0] as f64 * pair[1] as f64).sum();
        let bytes = 4.0 * size_of::<f32>() as f64 * (weights + table.len() as f64);
        host_memory::require(bytes, "the classifier", "give smaller layers (--hidden)")?;
        let mut specs: Vec<Spec> = Vec::new();
        let mut add = |name: String, shape: Vec<usize>| {
            let offset = specs.last().map_or(0, |spec: &Spec| spec.range().end);
            specs.push(Spec { name, shape, offset });
            offset
        };
        let matrices: Vec<Matrix> = (0..sizes.len() - 1)
            .map(|layer| {
                let (rows, columns) = (sizes[layer + 1], sizes[layer]);
                let offset = add(format!("layer.{layer}.weight"), vec![rows, columns]);
                Matrix { offset, rows, columns }
            })
            .collect();
        let vectors: Vec<Vector> = (0..sizes.len() - 1)
            .map(|layer| {
                let len = sizes[layer + 1];
                Vector { offset: add(format!("layer.{layer}.bias"), vec![len]), len }
            })
            .collect();
        let (decayed, rows) = (matrices.last().map_or(0, |last| last.range().end), table.len() / shape.dimension);
        let offset = add("genes".into(), vec![rows, shape.dimension]);
        let mut parameters = Parameters::zeros(specs, decayed, DType::F32);
        if !tune {
            parameters.gradients = Buffer::zeros(offset, DType::F32);
        }
        parameters.values.slice_mut()[offset..].copy_from_slice(table);
        let table = Matrix { offset, rows, columns: shape.dimension };
        Ok(Self { shape, parameters, layers: matrices.into_iter().zip(vectors).collect(), table })
    }

    /// Weights to begin with: normal, of variance 2 / inputs (He et al., 2015), and biases of `bias`.
    ///
    /// # Errors
    /// As [`Classifier::zeros`].
    pub fn initialise(shape: Shape, table: &[f32], training: &Training) -> Result<Self> {
        let mut classifier = Self::zeros(shape, table, training.tune)?;
        let philox = Philox::of(training.seed, 0, Purpose::Init);
        let values = classifier.parameters.values.slice_mut::<f32>();
        for (weight, bias) in &classifier.layers {
            let deviation = (2.0 / weight.columns as f64).sqrt();
            for at in weight.range() {
                values[at] = (philox.normal(at as u64) * deviation) as f32;
            }
            values[bias.range()].fill(training.bias as f32);
        }
        Ok(classifier)
    }

    /// The genes' vectors as they are now, `[genes, dimension]`.
    pub fn table(&self) -> &[f32] {
        &self.parameters.values.slice()[self.table.range()]
    }

    fn is_tuned(&self) -> bool {
        self.parameters.trains(self.table.offset)
    }

    /// Logits, `[pairs, 2]`.
    fn forward(&self, tape: &mut Tape, batch: &Rc<DeviceBatch>, dropout: f64) -> Result<Tensor> {
        let mut x = tape.unrecorded(!self.is_tuned(), |tape| {
            let tables = [Some(self.table), None, None];
            let vectors = ops::embedding(tape, &self.parameters, batch, tables, Embedding::default())?;
            Ok(side_by_side(tape, vectors))
        })?;
        for (layer, (weight, bias)) in self.layers.iter().enumerate() {
            x = ops::linear(tape, &self.parameters, x, *weight, Some(*bias))?;
            if layer + 1 < self.layers.len() {
                x = ops::relu(tape, x)?;
                x = ops::dropout(tape, x, dropout)?;
            }
        }
        Ok(x)
    }

    /// Trains on `pairs`, whose genes are rows of the table. Returns the mean loss of the last round, in nats.
    ///
    /// # Errors
    /// [`Error::Failed`] if the loss or its gradient is no number.
    pub fn train(&mut self, pairs: &[LabelledPair], training: &Training, progress: &mut Progress) -> Result<f64> {
        let config = AdamWConfig {
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: training.weight_decay,
            max_gradient_norm: 0.0,
            stochastic_rounding: false,
        };
        let mut optimizer = AdamW::new(config, &self.parameters, &Device::Cpu)?;
        let mut tape = Tape::new(Device::Cpu, DType::F32);
        let mut losses = Losses::new(&Device::Cpu)?;
        let mut order: Vec<usize> = (0..pairs.len()).collect();
        let mut mean = f64::NAN;
        let mut done = 0;
        for epoch in 0..training.epochs {
            shuffle(&mut order, Philox::of(training.seed, epoch, Purpose::Shuffle));
            for chunk in order.chunks(training.batch.max(1)) {
                tape.start_training(training.seed, optimizer.steps as u32, 0);
                let batch = batch(chunk.iter().map(|&index| (pairs[index].genes, Some(pairs[index].label))));
                let batch = DeviceBatch::upload_pooled(&mut tape, &batch)?;
                let logits = self.forward(&mut tape, &batch, training.dropout)?;
                ops::cross_entropy_into(&mut tape, &batch, logits, 1.0 / chunk.len() as f64, &mut losses)?;
                tape.backward(&mut self.parameters)?;
                tape.recycle_batch(batch);
                optimizer.update(&mut tape, &mut self.parameters, training.learning_rate)?;
                done += 1;
                progress.update(done, done * training.batch as u64, "");
            }
            let of_epoch = losses.take()?;
            mean = of_epoch.iter().map(|loss| loss.sum).sum::<f64>() / pairs.len().max(1) as f64;
        }
        if mean.is_finite() {
            return Ok(mean);
        }
        Err(Error::Failed(format!("the loss is {mean}: training has diverged; lower --learning-rate")))
    }

    /// How likely each pair interacts.
    ///
    /// # Errors
    /// None on the CPU.
    pub fn predict(&self, pairs: &[[u32; 2]]) -> Result<Vec<f64>> {
        let mut tape = Tape::new(Device::Cpu, DType::F32);
        let mut likely = Vec::with_capacity(pairs.len());
        for chunk in pairs.chunks(PREDICTED) {
            tape.start_inference();
            let batch = batch(chunk.iter().map(|&genes| (genes, None)));
            let batch = DeviceBatch::upload_pooled(&mut tape, &batch)?;
            let logits = self.forward(&mut tape, &batch, 0.0)?;
            // The softmax of two logits is the logistic function of their difference.
            likely.extend(tape.to_f64(logits)?.chunks_exact(CLASSES).map(|row| 1.0 / (1.0 + (row[0] - row[1]).exp())));
            tape.recycle_batch(batch);
        }
        Ok(likely)
    }
}

/// Pairs as sequences of two tokens, and their labels.
fn batch(pairs: impl Iterator<Item = ([u32; 2], Option<u8>)>) -> Batch {
    let mut batch = Batch::new();
    for (genes, label) in pairs {
        let row = batch.push(&genes.map(|gene| gene as i32));
        batch.rows.push(row);
        batch.labels.extend(label.map(i32::from));
    }
    batch
}

/// `[2 pairs, dimension]` as `[pairs, 2 dimension]`: the same memory.
fn side_by_side(tape: &mut Tape, x: Tensor) -> Tensor {
    let started = tape.start("side_by_side");
    let values = tape.take_value(x);
    let y = tape.push(values, x.rows / 2, 2 * x.columns);
    tape.record("side_by_side", started, move |tape, _| {
        let gradient = tape.take_gradient(y)?;
        tape.put_gradient(x, gradient);
        Ok(())
    });
    y
}

/// How often the genes of a pair are in training pairs that interact, `(interacting + 1) / (all + 2)`, on average of the two: what can be
/// known of a pair from each gene alone.
pub struct Habit(Vec<[u32; 2]>);

impl Habit {
    /// Counts training pairs; there are so many genes.
    pub fn of(pairs: &[LabelledPair], genes: usize) -> Self {
        let mut counts = vec![[0; 2]; genes];
        for pair in pairs {
            for gene in pair.genes {
                counts[gene as usize][0] += u32::from(pair.label);
                counts[gene as usize][1] += 1;
            }
        }
        Self(counts)
    }

    /// How likely a pair interacts.
    pub fn predict(&self, genes: [u32; 2]) -> f64 {
        let share = |gene: u32| {
            let [interacting, all] = self.0[gene as usize];
            f64::from(interacting + 1) / f64::from(all + 2)
        };
        (share(genes[0]) + share(genes[1])) / 2.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(hidden: &[usize]) -> Shape {
        Shape { dimension: 3, hidden: hidden.to_vec() }
    }

    /// Twelve genes of which two interact if their first numbers have one sign.
    fn example() -> (Vec<f32>, Vec<LabelledPair>) {
        let philox = Philox::new(2, 0, 0);
        let table: Vec<f32> = (0..36).map(|at| philox.normal(at) as f32).collect();
        let first = |gene: u32| table[3 * gene as usize] > 0.0;
        let all = (0..12).flat_map(|one| (0..12).map(move |other| [one, other]));
        let pairs = all.map(|genes| LabelledPair { genes, label: u8::from(first(genes[0]) == first(genes[1])) });
        let pairs = pairs.collect();
        (table, pairs)
    }

    fn train(training: &Training) -> (Classifier, f64) {
        let (table, pairs) = example();
        let mut classifier = Classifier::initialise(shape(&[16, 8]), &table, training).unwrap();
        let loss = classifier.train(&pairs, training, &mut Progress::new("", 0, true)).unwrap();
        (classifier, loss)
    }

    #[test]
    fn what_decides_is_learnt_with_vectors_frozen_or_not() {
        let (table, pairs) = example();
        for tune in [false, true] {
            let training =
                Training { epochs: 150, batch: 16, dropout: 0.0, tune, learning_rate: 5e-3, ..Training::default() };
            let (classifier, loss) = train(&training);
            assert!(loss < 0.1, "{tune}: {loss}");
            let genes: Vec<[u32; 2]> = pairs.iter().map(|pair| pair.genes).collect();
            let likely = classifier.predict(&genes).unwrap();
            let right = pairs.iter().zip(likely).filter(|(pair, likely)| (*likely > 0.5) == (pair.label == 1));
            assert!(right.count() > 140, "{tune}");
            assert_eq!(classifier.table() == table, !tune);
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_bits_and_another_does_not() {
        let run = |seed: u64, threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let training = Training { epochs: 2, batch: 32, tune: true, seed, ..Training::default() };
            pool.install(|| train(&training).0.parameters.values.slice::<f32>().to_vec())
        };
        assert_eq!(run(1, 1), run(1, 3));
        assert_ne!(run(1, 1), run(2, 1));
    }

    /// By hand: both vectors side by side, ReLU between the layers, a softmax at the end.
    #[test]
    fn a_prediction_is_the_formula() {
        let table = [1.0, -2.0, 0.5, 0.25, 4.0, -1.0];
        let classifier = Classifier::initialise(shape(&[2]), &table, &Training::default()).unwrap();
        let weights = classifier.parameters.values.slice::<f32>();
        let x = [0.25, 4.0, -1.0, 1.0, -2.0, 0.5];
        let hidden: Vec<f32> = (0..2)
            .map(|unit| (0..6).map(|at| weights[6 * unit + at] * x[at]).sum::<f32>() + 0.1)
            .map(|sum: f32| sum.max(0.0))
            .collect();
        let logit = |class: usize| weights[12 + 2 * class] * hidden[0] + weights[13 + 2 * class] * hidden[1] + 0.1;
        let expected = 1.0 / (1.0 + f64::from(logit(0) - logit(1)).exp());
        let found = classifier.predict(&[[1, 0]]).unwrap()[0];
        assert!((found - expected).abs() < 1e-6, "{found} {expected}");
    }

    #[test]
    fn genes_without_vectors_are_drawn() {
        let vectors = GeneVectors { genes: vec!["A".into()], dimension: 3, values: vec![7.0; 3] };
        let names = ["B", "A", "C"].map(str::to_owned);
        let (table, missing) = Table::new(vectors, &names, 0.25, 1);
        assert_eq!((missing, table.genes.names), (2, vec!["A".to_owned(), "B".into(), "C".into()]));
        assert_eq!(table.values[..3], [7.0; 3]);
        assert!(table.values[3..].iter().all(|value| value.abs() <= 0.25 && *value != 0.0));
    }

    #[test]
    fn habits_are_shares() {
        let pair = |one, other, label| LabelledPair { genes: [one, other], label };
        let habit = Habit::of(&[pair(0, 1, 1), pair(0, 2, 1), pair(1, 2, 0)], 4);
        assert!((habit.predict([0, 3]) - (0.75 + 0.5) / 2.0).abs() < 1e-12);
        assert!((habit.predict([1, 2]) - 0.5).abs() < 1e-12);
    }
}
