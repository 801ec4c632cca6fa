//! Figures that others published: printed beside ours, never mixed with them.

use serde::Serialize;

/// A published training throughput of a model with DNABERT's trunk (12 layers of 768).
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Published {
    /// What ran.
    pub system: &'static str,
    /// On what.
    pub hardware: &'static str,
    /// Tokens a second of the whole machine.
    pub tokens_per_second: f64,
    /// Where the figure is from, and what it leaves open.
    pub source: &'static str,
}

const CHART: &str = "chart dnabert1xa100.png or dnabert8xa100.png, NVIDIA/bionemo-framework, read off to about 1 %; batch 64, length not stated";

/// The figures for DNABERT, and the closest one for a GPU of today.
pub const PUBLISHED: [Published; 6] = [
    Published { system: "BioNeMo DNABERT, fp16", hardware: "1 x A100 80 GB", tokens_per_second: 139e3, source: CHART },
    Published { system: "BioNeMo DNABERT, fp32", hardware: "1 x A100 80 GB", tokens_per_second: 76e3, source: CHART },
    Published {
        system: "DNABERT's own code, fp16",
        hardware: "1 x A100 80 GB",
        tokens_per_second: 84e3,
        source: CHART,
    },
    Published {
        system: "DNABERT's own code, fp32",
        hardware: "1 x A100 80 GB",
        tokens_per_second: 72e3,
        source: CHART,
    },
    Published { system: "BioNeMo DNABERT, fp16", hardware: "8 x A100 80 GB", tokens_per_second: 1.12e6, source: CHART },
    Published {
        system: "llm.c GPT-2 124M, bf16, length 1024",
        hardware: "1 of 8 x H100 SXM",
        tokens_per_second: 468e3,
        source: "KellerJordan/modded-nanogpt, records/track_1_short/2024-10-13_llmc: 140 ms for 524,288 tokens on 8; another \
                 model with the same trunk",
    },
];
