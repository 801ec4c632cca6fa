//! Options of low-rank adapters.

use serde::Serialize;

use crate::model::{Lora, Target};

/// Which adapters are trained, if any.
#[derive(clap::Args, Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct LoraArgs {
    /// Train low-rank adapters of this rank beside the encoder's matrices, and the head; all else stays as --init has it, without gradient
    /// and moments (LoRA; Hu et al., 2021). The finished model has them added to its weights; in adapter/ they lie as peft reads them.
    #[arg(long, value_name = "RANK", requires = "init")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lora: Option<usize>,
    /// The adapters are multiplied with this over their rank (default: twice the rank).
    #[arg(long, value_name = "ALPHA", requires = "lora")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_alpha: Option<f64>,
    /// Dropout of what goes into the adapters (default 0.05).
    #[arg(long, value_name = "P", requires = "lora")]
    #[serde(skip_serializing_if = "Option::is_none")]
    lora_dropout: Option<f64>,
    /// Matrices with adapters, separated by commas (default query,value); dense: attention's output and both of the feed-forward block.
    #[arg(long, value_enum, value_name = "query|key|value|dense,...", value_delimiter = ',', requires = "lora")]
    #[serde(skip_serializing_if = "Vec::is_empty")]
    lora_targets: Vec<Target>,
}

impl LoraArgs {
    /// The adapters that they mean.
    pub fn adapters(&self) -> Option<Lora> {
        let given = &self.lora_targets;
        let targets = [Target::Query, Target::Key, Target::Value, Target::Dense].into_iter();
        let is_default = |target: &Target| matches!(target, Target::Query | Target::Value);
        let is_wanted = |target: &Target| if given.is_empty() { is_default(target) } else { given.contains(target) };
        self.lora.map(|rank| Lora {
            rank,
            alpha: self.lora_alpha.unwrap_or(2.0 * rank as f64),
            dropout: self.lora_dropout.unwrap_or(0.05),
            targets: targets.filter(is_wanted).collect(),
        })
    }
}
