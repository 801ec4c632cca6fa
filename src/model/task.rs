//! What a fine-tuned model answers, beside its weights.

use serde::{Deserialize, Serialize};

use crate::device::DType;

/// How logits are read, and what they are trained with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Task {
    /// One class of several: softmax, cross-entropy.
    #[default]
    SingleLabel,
    /// Any number of classes at once: a sigmoid each, binary cross-entropy.
    MultiLabel,
    /// Numbers: the logits themselves, mean squared error.
    Regression,
}

impl Task {
    /// The `problem_type` of transformers.
    pub fn problem_type(self) -> &'static str {
        match self {
            Self::SingleLabel => "single_label_classification",
            Self::MultiLabel => "multi_label_classification",
            Self::Regression => "regression",
        }
    }

    /// The task that a `problem_type` means.
    pub fn of_problem_type(name: &str) -> Option<Self> {
        [Self::SingleLabel, Self::MultiLabel, Self::Regression].into_iter().find(|task| task.problem_type() == name)
    }
}

/// What a classifier was trained on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Classification {
    /// Names of the classes; of the numbers, for a regression.
    pub labels: Vec<String>,
    /// Bases of a window, cut from the middle of longer ones; `None`: whatever comes.
    pub window: Option<usize>,
    /// Bases that a place had before and behind it at least, where the model answers for many places of a window at once; `None`: it answers
    /// for a window.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub margin: Option<usize>,
    /// How its logits are read.
    #[serde(default)]
    pub task: Task,
    /// Whether it reads two sequences, the second as tokens of type 1.
    #[serde(default)]
    pub pairs: bool,
    /// Training windows of each class, in any unit: what the model takes for the classes' frequencies, so each with its class' weight, where
    /// it was trained with such. None where nobody has written them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub counts: Vec<u64>,
}

impl Classification {
    /// What answers are computed with where `dtype` is asked for: numbers in their own units want f32, as the three digits of bf16 do
    /// not tell 10,005 from 10,000. (Training, which has them standardised, takes either.)
    pub fn answers_dtype(&self, dtype: DType) -> DType {
        if self.task == Task::Regression && dtype == DType::Bf16 { DType::F32 } else { dtype }
    }
}
