//! The least time that a kernel's instructions take: a third bound beside bytes and arithmetic.
//!
//! `tests/issue_budget.toml` has what the machine code of each kernel asks for, and its test keeps that true. A scheduler starts one
//! instruction of a warp a clock; each of its units takes fewer lanes than a warp has, and so more clocks. How often a loop is gone round
//! follows from what one round does: its products, or where there are none its bytes, of all that the launch has to do. `kernels/notes/issue.md`
//! says what the model leaves out, and how it compares with kernels whose speed is published.

use std::collections::BTreeMap;
use std::ops::{Add, Mul};
use std::sync::OnceLock;

use serde::{Deserialize, Serialize};

use crate::device::chips::Chip;
use crate::device::planner::Piece;

/// What a warp issues in one round of a loop, or on the way out of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Counts {
    /// Instructions: each takes a slot of its scheduler.
    pub issue: f64,
    /// Of them additions and multiplications of f32, or of pairs of 16 bits.
    pub fma: f64,
    /// Integer multiplications, and what the compiler writes as such (moves, shifts).
    pub imad: f64,
    /// Comparisons, selections, logic, integer additions, packing to bf16.
    pub alu: f64,
    /// Special functions: exponentials, reciprocals, roots.
    pub mufu: f64,
    /// Conversions between types that are not packing; counting bits.
    pub convert: f64,
    /// Passes of 128 bytes through L1 and shared memory: loads, stores, matrices, shuffles.
    pub passes: f64,
    /// Instructions of the uniform unit, and moves to it.
    pub uniform: f64,
    /// Products of matrices; each warp of a warpgroup counts the warpgroup's.
    pub tensor: f64,
    /// A warp's share of their additions and multiplications.
    pub flops: f64,
    /// Sums of a warpgroup that a product adds to; where products are of a warp, 0.
    pub sums: f64,
    /// Rounds of Philox.
    pub draws: f64,
    /// Bytes of global memory that a warp reads and writes.
    pub bytes: f64,
}

impl Counts {
    fn each(self, other: Self, of: impl Fn(f64, f64) -> f64) -> Self {
        Self {
            issue: of(self.issue, other.issue),
            fma: of(self.fma, other.fma),
            imad: of(self.imad, other.imad),
            alu: of(self.alu, other.alu),
            mufu: of(self.mufu, other.mufu),
            convert: of(self.convert, other.convert),
            passes: of(self.passes, other.passes),
            uniform: of(self.uniform, other.uniform),
            tensor: of(self.tensor, other.tensor),
            flops: of(self.flops, other.flops),
            sums: self.sums.max(other.sums),
            draws: of(self.draws, other.draws),
            bytes: of(self.bytes, other.bytes),
        }
    }

    /// The clocks that a scheduler of a chip needs for them at the least, and the unit that needs them, by the throughput table of NVIDIA's
    /// CUDA C++ Programming Guide ("Arithmetic Instructions"): lanes a clock and multiprocessor, of which a scheduler has a quarter.
    pub fn clocks(&self, capability: (u32, u32)) -> (f64, &'static str) {
        // 64 lanes of f32 on 8.0, 128 on 8.6 and later; integer multiplications take 64 of them.
        let fma = if capability == (8, 0) {
            2.0 * (self.fma + self.imad)
        } else {
            (self.fma + self.imad).max(2.0 * self.imad)
        };
        // 64 of comparisons, logic and integer additions; 16 special functions; 16 conversions on 8.0, 64 later.
        let special = 8.0 * self.mufu + if capability == (8, 0) { 8.0 } else { 2.0 } * self.convert;
        // 128 bytes of L1 and shared memory for the four schedulers together.
        let clocks = [
            ("issue", self.issue),
            ("fma", fma),
            ("alu", 2.0 * self.alu),
            ("mufu", special),
            ("shared", 4.0 * self.passes),
        ];
        let (unit, most) = clocks.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or_default();
        (most, unit)
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        self.each(other, |one, other| one + other)
    }
}

impl Mul<f64> for Counts {
    type Output = Self;

    fn mul(self, times: f64) -> Self {
        self.each(Self::default(), |count, _| count * times)
    }
}

/// A kernel's loop that does its work for the fewest instructions, and what surrounds it.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KernelIssue {
    /// One round.
    pub round: Counts,
    /// Where a warpgroup's sums are made in such rounds: from the first of them to the way out.
    #[serde(default)]
    pub out: Option<Counts>,
}

/// All kernels of a target, by name.
pub type Kernels = BTreeMap<String, KernelIssue>;

/// The committed budget: kernels by target.
///
/// # Panics
/// Never on input: the file is of this program, and its test reads it.
pub fn budget() -> &'static BTreeMap<String, Kernels> {
    static BUDGET: OnceLock<BTreeMap<String, Kernels>> = OnceLock::new();
    BUDGET
        .get_or_init(|| toml::from_str(include_str!("../../tests/issue_budget.toml")).expect("a test reads this file"))
}

/// The least seconds that the instructions of a launch take on a chip, and the unit that needs them; nothing where its machine code is not
/// known before the driver makes it, or the launch's work is not stated.
pub fn seconds(piece: &Piece, chip: &Chip) -> Option<(f64, &'static str)> {
    let kernel = budget().get(chip.code().target()?)?.get(&piece.name)?;
    let round = kernel.round;
    let rounds = if round.flops > 0.0 { piece.work.flops / round.flops } else { piece.work.bytes / round.bytes };
    let mut all = round * rounds;
    if let Some(out) = kernel.out.filter(|out| out.sums > 0.0) {
        all = all + out * (4.0 * piece.sums as f64 / out.sums);
    }
    let (clocks, unit) = all.clocks(chip.capability);
    // What products reach below the data sheet is clock that the chip cannot hold, and instructions between them have no other.
    let products = chip.tensor_flops;
    let held = if round.tensor > 0.0 { products.known() / products.data_sheet } else { 1.0 };
    let slots_per_second = 4.0 * f64::from(chip.multiprocessors) * chip.clock? * held;
    (rounds.is_finite() && clocks > 0.0).then_some((clocks / slots_per_second, unit))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::Work;

    #[test]
    fn the_busiest_unit_sets_the_clocks() {
        let of = |counts: Counts| (counts.clocks((8, 0)), counts.clocks((9, 0)));
        let counts = Counts { issue: 100.0, fma: 60.0, ..Counts::default() };
        assert_eq!(of(counts), ((120.0, "fma"), (100.0, "issue")), "half the lanes on 8.0");
        assert_eq!(of(Counts { imad: 55.0, ..counts }), ((230.0, "fma"), (115.0, "fma")));
        assert_eq!(of(Counts { imad: 70.0, fma: 5.0, ..counts }).1, (140.0, "fma"), "integers have half of the lanes");
        assert_eq!(of(Counts { alu: 61.0, ..counts }).1, (122.0, "alu"));
        assert_eq!(of(Counts { mufu: 16.0, ..counts }).1, (128.0, "mufu"));
        assert_eq!(of(Counts { passes: 31.0, ..counts }), ((124.0, "shared"), (124.0, "shared")));
        assert_eq!(of(Counts { convert: 20.0, ..counts }), ((160.0, "mufu"), (100.0, "issue")));
    }

    /// By hand: GELU behind a product of 65,536 x 3072 x 768 on an H200.
    #[test]
    fn a_way_out_is_gone_once_for_the_sums_of_a_warpgroup() {
        let chip = Chip::named("h200").unwrap();
        let kernel = &budget()["sm_90a"]["gemm_nt_gelu_cluster_sm90_bf16"];
        let (m, n, k) = (65_536.0, 3072.0, 768.0);
        let work = Work { bytes: 1.0, flops: 2.0 * m * n * k };
        let piece = |sums| Piece { name: "gemm_nt_gelu_cluster_sm90_bf16".into(), work, sums };
        let out = kernel.out.unwrap();
        // A warpgroup's tile is 128 x 192: eight products of 64 x 192 x 16 in a step.
        assert_eq!((kernel.round.flops, out.sums), (8.0 * 2.0 * 64.0 * 192.0 * 16.0 / 4.0, 128.0 * 192.0));
        let slots_per_second = 4.0 * 132.0 * 1.98e9 * 798.0 / 989.0;
        let alone = seconds(&piece(0), &chip).unwrap().0;
        let rounds = work.flops / kernel.round.flops;
        // Integers and logic go at half a warp a clock, and are what the rounds alone wait for; with the epilogue it is issue.
        let busiest = kernel.round.issue.max(2.0 * kernel.round.alu);
        assert!((alone * slots_per_second / (rounds * busiest) - 1.0).abs() < 1e-9, "{alone}");
        let both = seconds(&piece((m * n) as usize), &chip).unwrap();
        let warps = 4.0 * m * n / out.sums;
        let slots = rounds * kernel.round.issue + warps * out.issue;
        assert!((both.0 * slots_per_second / slots - 1.0).abs() < 1e-9 && both.1 == "issue", "{both:?}");
        assert_eq!(seconds(&Piece { name: "no_such_kernel".into(), ..piece(0) }, &chip), None);
        assert_eq!(seconds(&piece(0), &Chip::named("b200").unwrap()), None, "its machine code is made there");
    }
}
