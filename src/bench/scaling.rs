//! What a step of several GPUs costs beside that of one, by counts of bytes and the rates of links: nothing is measured here.

use serde::Serialize;

use super::plan::Plan;
use crate::{Error, Result};

/// GB/s in one direction between two GPUs of a machine, unless the user says otherwise, and who says so.
pub const LINK: f64 = 360.0;
/// Where it comes from.
pub const LINK_SOURCE: &str = "assumed: NVLink 4, four fifths of the 450 GB/s of its data sheet";
/// GB/s of a GPU's network adapter in one direction, unless the user says otherwise.
pub const NETWORK: f64 = 45.0;
/// Where it comes from.
pub const NETWORK_SOURCE: &str = "assumed: nine tenths of an adapter of 400 Gb/s for each GPU";

/// Machines with GPUs, and what connects them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cluster {
    /// GPUs of a machine.
    pub gpus: usize,
    /// Machines.
    pub nodes: usize,
    /// GB/s in one direction between two GPUs of a machine.
    pub link: f64,
    /// GB/s in one direction of a GPU's network adapter.
    pub network: f64,
}

/// A step by all GPUs of a cluster, each with as many tokens as the one that was planned.
#[derive(Clone, Debug, Serialize)]
pub struct Scaling {
    /// The cluster.
    pub cluster: Cluster,
    /// Bytes of the gradients, f32.
    pub gradient_bytes: f64,
    /// Milliseconds to exchange parts and to gather their sums, all GPUs with all others at once.
    pub transfer_milliseconds: f64,
    /// Milliseconds in which a GPU adds its part of all gradients, by its memory's rate.
    pub add_milliseconds: f64,
    /// The step's least milliseconds with both behind it.
    pub milliseconds_at_least: f64,
    /// Tokens of a step of all.
    pub tokens_per_step: usize,
    /// Tokens a second of all, if it took no more.
    pub tokens_per_second_at_most: f64,
    /// The one GPU's time over that of the step: the share of the cluster's work that is training.
    pub efficiency: f64,
}

impl Scaling {
    /// Of `plan`'s step on `cluster`. As [`crate::parallel::sum`] moves gradients: a rank sends each other one 1 / N of them, and gets as much, twice;
    /// those of its machine over the link while the others' come over the network.
    ///
    /// # Errors
    /// [`Error::Usage`] for a cluster of nothing.
    pub fn of(plan: &Plan, cluster: Cluster) -> Result<Self> {
        let Cluster { gpus, nodes, link, network } = cluster;
        let rates = [link, network];
        if gpus == 0 || nodes == 0 || rates.iter().any(|rate| !(rate.is_finite() && *rate > 0.0)) {
            return Err(Error::usage(
                format!(
                    "{nodes} machines with {gpus} GPUs, {link} GB/s between two of a machine and {network} GB/s to others"
                ),
                "give at least one of each, and rates over 0",
            ));
        }
        let ranks = (gpus * nodes) as f64;
        let gradients =
            plan.memory.iter().find(|(owner, _)| *owner == "gradients").map_or(0, |(_, bytes)| *bytes) as f64;
        let [inside, outside] = [gpus as f64 - 1.0, ranks - gpus as f64].map(|others| 2.0 * gradients * others / ranks);
        let transfer = (inside / (link * 1e9)).max(outside / (network * 1e9));
        // One addition reads two and writes one; N - 1 of them for a part of 1 / N.
        let add = 3.0 * gradients * (ranks - 1.0) / ranks / plan.chip.bytes_per_second.known();
        let milliseconds = plan.milliseconds_at_least + (transfer + add) * 1e3;
        let tokens = plan.tokens_per_step * gpus * nodes;
        Ok(Self {
            cluster,
            gradient_bytes: gradients,
            transfer_milliseconds: transfer * 1e3,
            add_milliseconds: add * 1e3,
            milliseconds_at_least: milliseconds,
            tokens_per_step: tokens,
            tokens_per_second_at_most: tokens as f64 / milliseconds * 1e3,
            efficiency: plan.milliseconds_at_least / milliseconds,
        })
    }
}
