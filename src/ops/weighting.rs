//! What makes the rows of a loss count unequally.

use crate::Result;
use crate::device::{Buffer, Device};

/// How much each row of a cross-entropy counts: by its class, and by how far it is from right.
pub struct Weighting {
    /// Of each class, `[classes]` of f32 on the tape's device.
    pub(super) weights: Buffer,
    /// The same, on the host.
    host: Vec<f32>,
    /// The exponent of the focal loss (Lin et al., ICCV 2017): a row counts `(1 - p)^gamma` times, where `p` is the probability of its
    /// label; 0 for the cross-entropy.
    pub gamma: f64,
}

impl Weighting {
    /// Rows of class i weigh `weights[i]`.
    ///
    /// # Errors
    /// Out of memory.
    pub fn new(device: &Device, weights: Vec<f32>, gamma: f64) -> Result<Self> {
        Ok(Self { weights: Buffer::upload(device, &weights)?, host: weights, gamma })
    }

    /// The weights on the tape's device, `[classes]`.
    pub fn weights(&self) -> &Buffer {
        &self.weights
    }

    /// What rows with these labels weigh together. One that is no class weighs nothing: the loss is refused where it is computed.
    pub fn of(&self, labels: &[i32]) -> f64 {
        let weight = |&label: &i32| usize::try_from(label).ok().and_then(|label| self.host.get(label)).copied();
        labels.iter().filter_map(weight).map(f64::from).sum()
    }
}
