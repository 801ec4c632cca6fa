//! Low-rank adapters (LoRA; Hu et al., 2021, arXiv 2106.09685): beside a frozen matrix `W` learn `A [rank, in]` and `B [out, rank]`, and
//! `y = W x + (alpha / rank) B A dropout(x)`.

use clap::ValueEnum;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};

use super::Config;
use crate::autograd::Spec;
use crate::{Error, Result};

/// Which adapters a model has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lora {
    /// Rows of A, and columns of B.
    pub rank: usize,
    /// What B A is multiplied with, times the rank.
    pub alpha: f64,
    /// The probability with which an element of x is dropped on its way to A. What one product computes, as query, key and value, shares it.
    pub dropout: f64,
    /// The matrices that have adapters.
    pub targets: Vec<Target>,
}

/// Matrices of each layer that can have an adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// That of the queries.
    Query,
    /// That of the keys.
    Key,
    /// That of the values.
    Value,
    /// Those behind attention: its output's, and both of the feed-forward block.
    Dense,
}

/// The products of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Product {
    Qkv,
    AttentionOutput,
    Up,
    Down,
}

/// The adapter of a matrix, or of some rows of one that is query, key and value in one.
#[derive(Clone, Debug, PartialEq)]
pub struct Adapter {
    /// The linear layer, without `.weight`.
    pub module: String,
    /// What its parameters are called, without `.lora_A.weight` and `.lora_B.weight`.
    pub name: String,
    /// The first of its rows in the layer's matrix.
    pub first: usize,
    /// Its rows.
    pub rows: usize,
    /// Its columns.
    pub columns: usize,
    pub(super) product: Product,
    /// The first of its columns in the product's output.
    pub(super) column: usize,
}

impl Adapter {
    /// The names of A and B.
    pub fn parameters(&self) -> [String; 2] {
        ["A", "B"].map(|part| format!("{}.lora_{part}.weight", self.name))
    }
}

impl Lora {
    /// What B A is multiplied with.
    pub fn scale(&self) -> f64 {
        self.alpha / self.rank as f64
    }

    /// Checks that a model of these sizes can have such adapters.
    ///
    /// # Errors
    /// [`Error::Usage`] if it cannot.
    pub fn check(&self, config: &Config) -> Result<()> {
        let adapters = self.adapters(config, 0);
        let most = adapters.iter().map(|adapter| adapter.rows.min(adapter.columns)).min();
        let Some(most) = most else { return Err(Error::usage("--lora-targets without a matrix", "name one: query")) };
        if !(1..=most).contains(&self.rank) {
            let found = format!("--lora {}, of matrices of which the smallest side has {most}", self.rank);
            return Err(Error::usage(found, format!("give a rank from 1 to {most}; 8 is common")));
        }
        if !(self.alpha > 0.0 && self.alpha.is_finite()) {
            return Err(Error::usage(format!("--lora-alpha {}", self.alpha), "give a number over 0; 16 is common"));
        }
        if !(0.0..1.0).contains(&self.dropout) {
            let found = format!("--lora-dropout {}", self.dropout);
            return Err(Error::usage(found, "give a probability from 0 up to, not including, 1"));
        }
        Ok(())
    }

    /// The adapters of a layer, those of one matrix one after the other.
    pub fn adapters(&self, config: &Config, layer: usize) -> Vec<Adapter> {
        let (hidden, names) = (config.hidden_size, config.architecture.family.names());
        let name = |part: &str| format!("{}.{layer}.{part}", names.layers);
        let mut adapters = Vec::new();
        let parts = [(Target::Query, "query"), (Target::Key, "key"), (Target::Value, "value")];
        for (index, (target, word)) in parts.into_iter().enumerate() {
            if !self.targets.contains(&target) {
                continue;
            }
            let column = index * hidden;
            let (module, name, first) = match names.qkv {
                [one] => (name(one), format!("{}.{word}", name(one)), column),
                each => (name(each[index]), name(each[index]), 0),
            };
            adapters.push(Adapter {
                module,
                name,
                first,
                rows: hidden,
                columns: hidden,
                product: Product::Qkv,
                column,
            });
        }
        if self.targets.contains(&Target::Dense) {
            let dense = [
                (names.attention_output, hidden, hidden, Product::AttentionOutput),
                (names.up, config.up_rows(), hidden, Product::Up),
                (names.down, hidden, config.intermediate_size, Product::Down),
            ];
            adapters.extend(dense.map(|(part, rows, columns, product)| {
                let (module, name) = (name(part), name(part));
                Adapter { module, name, first: 0, rows, columns, product, column: 0 }
            }));
        }
        adapters
    }

    /// A and B of all adapters, which lie nowhere yet.
    pub fn specs(&self, config: &Config) -> Vec<Spec> {
        let adapters = (0..config.num_hidden_layers).flat_map(|layer| self.adapters(config, layer));
        let of = |adapter: Adapter| {
            let shapes = [[self.rank, adapter.columns], [adapter.rows, self.rank]];
            let each = adapter.parameters().into_iter().zip(shapes);
            each.map(|(name, shape)| Spec { name, shape: shape.to_vec(), offset: 0 }).collect::<Vec<_>>()
        };
        adapters.flat_map(of).collect()
    }

    /// Elements of the adapters of one layer.
    pub fn layer_weights(&self, config: &Config) -> usize {
        self.adapters(config, 0).iter().map(|adapter| self.rank * (adapter.rows + adapter.columns)).sum()
    }

    /// Adds to each matrix what its adapters add: `W += (alpha / rank) B A`, in f64 and then rounded. `values` is the flat buffer that
    /// `specs` are of.
    ///
    /// # Errors
    /// [`Error::Failed`] if a parameter is missing.
    pub fn merge(&self, config: &Config, specs: &[Spec], values: &mut [f32]) -> Result<()> {
        let find = |name: &str| {
            let found = specs.iter().find(|spec| spec.name == name);
            found.ok_or_else(|| Error::Failed(format!("the model has no parameter {name}")))
        };
        for adapter in (0..config.num_hidden_layers).flat_map(|layer| self.adapters(config, layer)) {
            let [a, b] = adapter.parameters();
            let (a, b) = (values[find(&a)?.range()].to_vec(), values[find(&b)?.range()].to_vec());
            let weight = find(&format!("{}.weight", adapter.module))?;
            let rows =
                &mut values[weight.range()][adapter.first * adapter.columns..][..b.len() / self.rank * adapter.columns];
            rows.par_chunks_exact_mut(adapter.columns).zip(b.par_chunks_exact(self.rank)).for_each(|(row, b)| {
                let mut sums = vec![0.0f64; adapter.columns];
                for (b, a) in b.iter().zip(a.chunks_exact(adapter.columns)) {
                    sums.iter_mut().zip(a).for_each(|(sum, a)| *sum += f64::from(*b) * f64::from(*a));
                }
                row.iter_mut().zip(sums).for_each(|(weight, sum)| {
                    *weight = (f64::from(*weight) + self.scale() * sum) as f32;
                });
            });
        }
        Ok(())
    }
}
