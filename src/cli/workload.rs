//! The options of `bench train`, `profile` and `plan` that say what is measured.

use std::sync::Arc;

use serde::Serialize;

use super::model::ModelArgs;
use crate::Result;
use crate::bench::{Mix, Workload};
use crate::device::Device;
use crate::model::{Config, Head, Recompute};
use crate::tokenizer::Tokenizer;

/// The preset, if none is named.
const DEFAULT_MODEL: &str = "mini";

/// The preset that is made for splice sites.
const SPLICE_MODEL: &str = "splice-small";

/// What the model is trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// Masked k-mers, 15 % of all: pretraining.
    Pretrain,
    /// The class of the site in the middle of each sequence: fine-tuning on splice sites.
    Splice,
}

/// A training step to measure.
#[derive(clap::Args, Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct WorkloadArgs {
    #[command(flatten)]
    #[serde(flatten)]
    model: ModelArgs,
    /// Sequences in a step (default: 128 on a GPU; 8 on the CPU, 2 for the 86-89 M presets; 64 for splice-small).
    #[arg(long, value_name = "N")]
    batch: Option<usize>,
    /// Tokens in a sequence of full length (default: 512; for splice-small 80).
    #[arg(long, value_name = "TOKENS")]
    length: Option<usize>,
    /// Lengths of the sequences: all full, or as DNABERT pretrains, half full and half uniform; both have batch x length tokens.
    #[arg(long, value_enum, default_value = "full")]
    mix: Mix,
    /// What the model is trained for (default: pretrain; for splice-small splice). A window of 400 bases is --length 397 of 6-mers.
    #[arg(long, value_enum)]
    task: Option<Task>,
    /// Share of tokens that are masked.
    #[arg(long, default_value_t = 0.15, value_name = "SHARE")]
    masked: f64,
    /// What of the activations is computed again on the way back: nothing, GELU's output, or all inside each layer.
    #[arg(long, value_enum, default_value = "none")]
    recompute: Recompute,
}

impl WorkloadArgs {
    /// The same, with one sequence of 64 tokens where nothing else is asked for: what an emulator runs in seconds.
    pub fn one_sequence(&self) -> Self {
        Self { batch: self.batch.or(Some(1)), length: self.length.or(Some(64)), ..self.clone() }
    }

    /// The workload that they describe on `device`, with `steps` measured steps.
    ///
    /// # Errors
    /// As [`WorkloadArgs::config`].
    pub fn workload(&self, device: &Device, steps: usize) -> Result<Workload> {
        let splice = self.preset() == SPLICE_MODEL;
        let config = self.config()?;
        let batch = self.batch.unwrap_or(match device {
            _ if splice => 64,
            Device::Kernels(_) => 128,
            Device::Cpu if config.num_hidden_layers >= 12 => 2,
            Device::Cpu => 8,
        });
        let head = match self.task() {
            Task::Pretrain => Head::MaskedLm,
            Task::Splice => Head::Site { labels: 3, hidden: None },
        };
        let length = self.length();
        let Self { mix, masked, recompute, .. } = *self;
        Ok(Workload { config, head, batch, length, mix, masked, recompute, steps, collected: None })
    }

    /// What is measured, in a few words.
    pub fn title(&self, workload: &Workload) -> String {
        let (batch, length) = (workload.batch, workload.length);
        let task = if self.task == Some(Task::Splice) { " for splice sites" } else { "" };
        let again = match self.recompute {
            Recompute::None => "",
            Recompute::Gelu => ", GELU recomputed",
            Recompute::Layer => ", layers recomputed",
        };
        let model = self.name();
        match self.mix {
            Mix::Full => format!("{model}{task}, {batch} sequences of {length} tokens{again}"),
            Mix::Dnabert => format!("{model}{task}, {} tokens in DNABERT's mix up to {length}{again}", batch * length),
        }
    }

    /// The configuration of the model.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for an unknown preset, and sizes that do not fit together.
    pub fn config(&self) -> Result<Config> {
        // Of lengths that make no step, the workload says so.
        self.model.config(DEFAULT_MODEL, self.length().clamp(1, 1 << 20))
    }

    /// What makes its tokens.
    ///
    /// # Errors
    /// As [`ModelArgs::tokenizer`].
    pub fn tokenizer(&self) -> Result<Arc<dyn Tokenizer>> {
        self.model.tokenizer(DEFAULT_MODEL)
    }

    fn length(&self) -> usize {
        self.length.unwrap_or(if self.preset() == SPLICE_MODEL { 80 } else { 512 })
    }

    /// The preset, and what deviates from it.
    pub fn name(&self) -> String {
        let ModelArgs { k, layers, hidden, heads, intermediate, .. } = self.model;
        let sizes =
            [("k", k), ("layers", layers), ("hidden", hidden), ("heads", heads), ("intermediate", intermediate)];
        let given = sizes.into_iter().filter_map(|(name, size)| Some(format!(" --{name} {}", size?)));
        self.preset().to_owned() + &given.collect::<String>()
    }

    /// What it is trained for.
    pub fn task(&self) -> Task {
        self.task.unwrap_or(if self.preset() == SPLICE_MODEL { Task::Splice } else { Task::Pretrain })
    }

    fn preset(&self) -> &str {
        self.model.preset.as_deref().unwrap_or(DEFAULT_MODEL)
    }
}
