//! What instructions ask of a multiprocessor: which unit they run on, and what work they carry.

use std::ops::{Add, Sub};

use crate::listing::Instruction;

/// What a warp issues on a way through some code. The names are those of `tests/issue_budget.toml`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Instructions: each takes an issue slot of its scheduler.
    pub issue: u32,
    /// Of them additions and multiplications of f32 or of two 16-bit numbers, which all lanes of the FMA unit take.
    pub fma: u32,
    /// Integer multiplications, and what the compiler writes as such (moves, shifts): half of that unit takes them.
    pub imad: u32,
    /// Comparisons, selections, logic, integer additions, packing to bf16.
    pub alu: u32,
    /// Special functions.
    pub mufu: u32,
    /// Conversions between types that are not packing, and counting bits.
    pub convert: u32,
    /// Passes of 128 bytes through L1 and shared memory: loads, stores, matrices, shuffles.
    pub passes: u32,
    /// Instructions of the uniform unit, and moves to it.
    pub uniform: u32,
    /// Products of matrices; a warpgroup's count for each of its warps.
    pub tensor: u32,
    /// A warp's share of their additions and multiplications.
    pub flops: u64,
    /// Rows and columns of sums that one of them adds to, of a warpgroup; 0 where it is a warp's.
    sums: u32,
    /// A bit for each register that the sums of one of them begin at: a warpgroup may have several tiles.
    accumulators: [u64; 4],
    /// Rounds of Philox, by its constants.
    pub draws: u32,
    /// Bytes that a warp reads and writes in global memory.
    pub bytes: u64,
    /// Of them those that it writes. Not in the budget, as the next one.
    pub stored: u64,
    /// Copies of whole tiles from shared memory to global memory, of one thread.
    pub bulk: u32,
}

impl Counts {
    /// Sums of a warpgroup that its products add to.
    pub fn sums(&self) -> u32 {
        self.sums * self.accumulators.iter().map(|word| word.count_ones()).sum::<u32>()
    }

    /// Those of one instruction.
    pub fn of(instruction: &Instruction) -> Self {
        let mut counts = Self { issue: 1, ..Self::default() };
        let opcode = instruction.opcode();
        let mut parts = opcode.split('.');
        let name = parts.next().unwrap_or_default();
        let width = parts.clone().find_map(|part| match part {
            "64" => Some(8),
            "128" => Some(16),
            "U16" | "S16" | "16" => Some(2),
            "U8" | "S8" => Some(1),
            _ => None,
        });
        let lanes = |width: Option<u64>| 32 * width.unwrap_or(4);
        match name {
            "HGMMA" | "HMMA" => {
                let numbers =
                    |part: &str| -> Vec<u64> { part.split('x').filter_map(|side| side.parse().ok()).collect() };
                let [m, n, k] = match (name, parts.next().map(numbers).as_deref()) {
                    ("HGMMA", Some(&[m, n, k])) => [m, n, k],
                    // HMMA.16816 is 16 x 8 x 16, of one warp.
                    (_, Some([16816])) => [16, 8, 16],
                    (_, Some([1688])) => [16, 8, 8],
                    _ => [0; 3],
                };
                let warps = if name == "HGMMA" { 4 } else { 1 };
                (counts.tensor, counts.flops) = (1, 2 * m * n * k / warps);
                counts.sums = if warps == 4 { (m * n) as u32 } else { 0 };
                let operand = instruction.text.split_whitespace().find_map(|word| word.strip_prefix('R'));
                let register = operand.and_then(|word| word.trim_end_matches(',').parse::<u8>().ok()).unwrap_or(0);
                counts.accumulators[register as usize / 64] |= 1 << (register % 64);
            }
            "FFMA" | "FADD" | "FMUL" | "FFMA2" | "FADD2" | "FMUL2" | "HFMA2" | "HADD2" | "HMUL2" => counts.fma = 1,
            "IMAD" | "IDP" => counts.imad = 1,
            "MUFU" => counts.mufu = 1,
            "F2F" | "F2I" | "I2F" | "FRND" | "POPC" | "FLO" | "BREV" | "FCHK" | "REDUX" => counts.convert = 1,
            "LDS" | "STS" | "ATOMS" | "LDL" | "STL" => counts.passes = lanes(width).div_ceil(128) as u32,
            "LDSM" | "STSM" => {
                // 8 x 8 matrices of 128 bytes.
                counts.passes =
                    parts.filter_map(|part| part.parse().ok()).filter(|&number| number <= 4).max().unwrap_or(1);
            }
            "SHFL" => counts.passes = 1,
            "LDG" | "STG" | "RED" | "ATOMG" | "LD" | "ST" => {
                counts.bytes = lanes(width);
                counts.passes = counts.bytes.div_ceil(128) as u32;
                counts.stored = if name == "LDG" || name == "LD" { 0 } else { counts.bytes };
            }
            "LDGSTS" => {
                counts.bytes = lanes(width);
                counts.passes = 2 * counts.bytes.div_ceil(128) as u32;
            }
            "R2UR" | "S2UR" => counts.uniform = 1,
            "UTMASTG" | "UTMAREDG" | "UBLKCP" | "UBLKRED" => (counts.uniform, counts.bulk) = (1, 1),
            "BRA" | "BRX" | "BSSY" | "BSYNC" | "EXIT" | "CALL" | "RET" | "NOP" | "WARPSYNC" | "BAR" | "DEPBAR"
            | "SYNCS" | "WARPGROUP" | "MEMBAR" | "FENCE" | "ELECT" | "YIELD" | "LDGDEPBAR" | "ERRBAR" | "CCTL"
            | "S2R" | "LDC" | "ACQBULK" | "PREEXIT" => {}
            _ if name.starts_with('U') => counts.uniform = 1,
            _ => counts.alu = 1,
        }
        // Philox's multipliers, 0xD2511F53 and 0xCD9E8D57, as a listing writes them.
        counts.draws =
            u32::from(["0x2daee0ad", "0x326172a9"].iter().any(|constant| instruction.text.contains(constant)));
        counts
    }
}

impl Add for Counts {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            issue: self.issue + other.issue,
            fma: self.fma + other.fma,
            imad: self.imad + other.imad,
            alu: self.alu + other.alu,
            mufu: self.mufu + other.mufu,
            convert: self.convert + other.convert,
            passes: self.passes + other.passes,
            uniform: self.uniform + other.uniform,
            tensor: self.tensor + other.tensor,
            flops: self.flops + other.flops,
            sums: self.sums.max(other.sums),
            accumulators: [0, 1, 2, 3].map(|word| self.accumulators[word] | other.accumulators[word]),
            draws: self.draws + other.draws,
            bytes: self.bytes + other.bytes,
            stored: self.stored + other.stored,
            bulk: self.bulk + other.bulk,
        }
    }
}

/// What is left of a way when a part of it is taken out; nothing of what the part has more of.
impl Sub for Counts {
    type Output = Self;

    fn sub(self, part: Self) -> Self {
        Self {
            issue: self.issue.saturating_sub(part.issue),
            fma: self.fma.saturating_sub(part.fma),
            imad: self.imad.saturating_sub(part.imad),
            alu: self.alu.saturating_sub(part.alu),
            mufu: self.mufu.saturating_sub(part.mufu),
            convert: self.convert.saturating_sub(part.convert),
            passes: self.passes.saturating_sub(part.passes),
            uniform: self.uniform.saturating_sub(part.uniform),
            tensor: self.tensor.saturating_sub(part.tensor),
            flops: self.flops.saturating_sub(part.flops),
            sums: self.sums,
            accumulators: self.accumulators,
            draws: self.draws.saturating_sub(part.draws),
            bytes: self.bytes.saturating_sub(part.bytes),
            stored: self.stored.saturating_sub(part.stored),
            bulk: self.bulk.saturating_sub(part.bulk),
        }
    }
}
