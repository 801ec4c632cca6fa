//! The options of `bench train`, `profile` and `plan` that say what is measured.

use serde::Serialize;

use crate::Result;
use crate::bench::{Mix, Workload};
use crate::device::Device;
use crate::model::{Head, Preset, Recompute, preset};

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
    /// Model size.
    #[arg(long, default_value = "mini")]
    preset: String,
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
    /// [`crate::Error::Usage`] for an unknown preset.
    pub fn workload(&self, device: &Device, steps: usize) -> Result<Workload> {
        let preset = preset(&self.preset)?;
        let splice = preset.name == SPLICE_MODEL;
        let length = self.length.unwrap_or(if splice { 80 } else { 512 });
        let batch = self.batch.unwrap_or(match device {
            _ if splice => 64,
            Device::Kernels(_) => 128,
            Device::Cpu if preset.layers == 12 => 2,
            Device::Cpu => 8,
        });
        let head = match self.task(preset) {
            Task::Pretrain => Head::MaskedLm,
            Task::Splice => Head::Site { labels: 3, hidden: None },
        };
        let config = preset.config(length);
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
        let preset = &self.preset;
        match self.mix {
            Mix::Full => format!("{preset}{task}, {batch} sequences of {length} tokens{again}"),
            Mix::Dnabert => format!("{preset}{task}, {} tokens in DNABERT's mix up to {length}{again}", batch * length),
        }
    }

    /// The preset, and what it is trained for.
    ///
    /// # Errors
    /// [`crate::Error::Usage`] for an unknown preset.
    pub fn preset_and_task(&self) -> Result<(&'static Preset, Task)> {
        let preset = preset(&self.preset)?;
        Ok((preset, self.task(preset)))
    }

    fn task(&self, preset: &Preset) -> Task {
        self.task.unwrap_or(if preset.name == SPLICE_MODEL { Task::Splice } else { Task::Pretrain })
    }
}
