//! Which attention kernels run where: one table by family, type, head size and compute capability.
//!
//! Why tiles and bytes are what they are is in `kernels/notes/attention.md`; the kernels' own templates are next to their
//! code in `kernels/attention_forward.cu` and `kernels/attention_backward.cu`.

use serde::Serialize;

use super::DType;
use crate::{Error, Result};

/// Rows of queries or keys in an entry of the plan: `ATTENTION_ROWS` of `kernels/common/attention.cuh`.
pub const PLAN_ROWS: usize = 128;
/// The longest sequence of the kernels that compute all gradients at once: `TILES` of `kernels/attention_backward_whole_sm90.cu`.
pub const WHOLE_LENGTH: usize = 512;

/// Which family of attention kernels is used: what `--attention` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum AttentionPath {
    /// The first of the table that can run.
    #[default]
    Auto,
    /// mma.sync in bf16, multiply-adds in f32: every GPU from compute capability 8.0 on.
    Sm80,
    /// wgmma and TMA: compute capability 9.0 alone. Heads of 64 have one kernel for all gradients of sequences of at most 512 tokens.
    Sm90,
    /// The same, with two kernels for the gradients at any length.
    Sm90Split,
}

impl AttentionPath {
    /// As on the command line and in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Sm80 => "sm80",
            Self::Sm90 => "sm90",
            Self::Sm90Split => "sm90-split",
        }
    }

    /// Whether its kernels are Hopper's own.
    pub fn is_sm90(self) -> bool {
        matches!(self, Self::Sm90 | Self::Sm90Split)
    }
}

/// One kernel and how it is launched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionKernel {
    /// The exported name.
    pub name: &'static str,
    /// Rows that a block owns; a divisor of [`PLAN_ROWS`].
    pub rows: usize,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// The kernels for some head sizes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionKernels {
    /// Whose kernels they are.
    pub family: AttentionPath,
    /// Type of queries, keys, values and output.
    pub dtype: DType,
    /// The smallest and the largest head; multiples of 8 between them fit.
    pub head_dims: [usize; 2],
    /// The lowest and the highest compute capability that runs them.
    pub capabilities: [(u32, u32); 2],
    /// Whether they know ALiBi and block-sparse patterns.
    pub hooks: bool,
    /// The forward pass.
    pub forward: AttentionKernel,
    /// The gradient of queries.
    pub backward_queries: AttentionKernel,
    /// The gradients of keys and values.
    pub backward_keys: AttentionKernel,
    /// All gradients, of sequences up to [`WHOLE_LENGTH`].
    pub backward_whole: Option<AttentionKernel>,
}

/// Any capability from 8.0 on.
const FROM_8_0: [(u32, u32); 2] = [(8, 0), (u32::MAX, 0)];

/// Forward and backward kernels of the sm80 family: `[rows, threads, shared bytes]` of each; both backward kernels have the same.
macro_rules! sm80 {
    ($dtype:ident $name:literal, $head_dims:expr, $d:literal, $forward:expr, $backward:expr) => {
        AttentionKernels {
            family: AttentionPath::Sm80,
            dtype: DType::$dtype,
            head_dims: $head_dims,
            capabilities: FROM_8_0,
            hooks: true,
            forward: kernel(concat!("attention_forward_", $name, "_d", $d), $forward),
            backward_queries: kernel(concat!("attention_backward_queries_", $name, "_d", $d), $backward),
            backward_keys: kernel(concat!("attention_backward_keys_", $name, "_d", $d), $backward),
            backward_whole: None,
        }
    };
}

/// The kernels of an sm90 family for heads of `d` elements: shared bytes of each. 128 rows a block, which stays and takes one after the
/// other; 384 threads.
macro_rules! sm90 {
    ($family:ident, $d:literal, $forward:expr, $queries:expr, $keys:expr, $whole:expr) => {
        AttentionKernels {
            family: AttentionPath::$family,
            dtype: DType::Bf16,
            head_dims: [$d, $d],
            capabilities: [(9, 0), (9, 0)],
            hooks: false,
            forward: kernel(concat!("attention_forward_sm90_bf16_d", $d), [128, 384, $forward]),
            backward_queries: kernel(concat!("attention_backward_queries_sm90_bf16_d", $d), [128, 384, $queries]),
            backward_keys: kernel(concat!("attention_backward_keys_sm90_bf16_d", $d), [128, 384, $keys]),
            backward_whole: $whole,
        }
    };
}

const fn kernel(name: &'static str, [rows, threads, shared_bytes]: [u32; 3]) -> AttentionKernel {
    AttentionKernel { name, rows: rows as usize, threads, shared_bytes }
}

/// A block takes one (sequence, head) after the other.
const WHOLE: AttentionKernel = kernel("attention_backward_whole_sm90_bf16_d64", [128, 384, 226 << 10]);

/// Every path, the preferred first. A head takes the first row that fits it.
pub const TABLE: &[AttentionKernels] = &[
    sm90!(Sm90, 32, 81 << 10, 57 << 10, 59 << 10, None),
    sm90!(Sm90, 64, 161 << 10, 113 << 10, 115 << 10, Some(WHOLE)),
    sm90!(Sm90, 128, 193 << 10, 161 << 10, 162 << 10, None),
    sm90!(Sm90Split, 32, 81 << 10, 57 << 10, 59 << 10, None),
    sm90!(Sm90Split, 64, 161 << 10, 113 << 10, 115 << 10, None),
    sm90!(Sm90Split, 128, 193 << 10, 161 << 10, 162 << 10, None),
    sm80!(Bf16 "bf16", [8, 32], 32, [128, 128, 24 << 10], [128, 128, 33 << 10]),
    sm80!(Bf16 "bf16", [40, 64], 64, [128, 128, 48 << 10], [128, 128, 65 << 10]),
    sm80!(Bf16 "bf16", [72, 128], 128, [128, 128, 64 << 10], [128, 256, 193 << 9]),
    // A row of f32 is four floats longer than D: (rows of both sides and stages) * (D + 4) * 4, and 8 bytes a streamed query.
    sm80!(F32 "f32", [8, 32], 32, [128, 128, 256 * 36 * 4], [64, 128, 256 * 36 * 4 + 512]),
    sm80!(F32 "f32", [40, 64], 64, [128, 128, 256 * 68 * 4], [64, 128, 256 * 68 * 4 + 512]),
    sm80!(F32 "f32", [72, 128], 128, [64, 128, 128 * 132 * 4], [32, 64, 128 * 132 * 4 + 256]),
    sm80!(F32 "f32", [136, 256], 256, [32, 64, 96 * 260 * 4], [16, 64, 96 * 260 * 4 + 256]),
];

impl AttentionKernels {
    /// The kernels for heads of `head_dim` elements of type `dtype` on a device of this compute capability; with `hooks`, ones
    /// that know ALiBi and block-sparse patterns.
    ///
    /// # Errors
    /// [`Error::Usage`] saying what there is, if `path`, or every path, has no such kernels.
    pub fn choose(
        path: AttentionPath,
        dtype: DType,
        head_dim: usize,
        capability: (u32, u32),
        hooks: bool,
    ) -> Result<&'static Self> {
        let allowed = |row: &&Self| path == AttentionPath::Auto || row.family == path;
        let fits = |row: &&Self| row.dtype == dtype && row.runs_on(capability) && row.takes(head_dim);
        TABLE.iter().find(|row| allowed(row) && fits(row) && (row.hooks || !hooks)).ok_or_else(|| {
            let (major, minor) = capability;
            let hooks = if hooks { " and a bias or a block-sparse pattern" } else { "" };
            Error::usage(
                format!(
                    "--attention {} with {} heads of {head_dim} elements{hooks} on compute capability {major}.{minor}: no \
                     such kernels",
                    path.name(),
                    dtype.name()
                ),
                format!("choose among {}, or use --device cpu", offers(capability)),
            )
        })
    }

    /// The families that have kernels for this compute capability, the preferred first.
    pub fn families(capability: (u32, u32)) -> Vec<AttentionPath> {
        let mut families: Vec<_> = TABLE.iter().filter(|row| row.runs_on(capability)).map(|row| row.family).collect();
        families.dedup();
        families
    }

    /// The kernel that computes all gradients of a batch whose longest sequence has `longest` tokens, if there is one.
    pub fn whole(&self, longest: usize) -> Option<&AttentionKernel> {
        self.backward_whole.as_ref().filter(|_| longest <= WHOLE_LENGTH)
    }

    /// As reports name it: "sm80 bf16, heads of 40 to 64".
    pub fn describe(&self) -> String {
        let [smallest, largest] = self.head_dims;
        let sizes = if smallest == largest { format!("{largest}") } else { format!("{smallest} to {largest}") };
        let whole = self
            .backward_whole
            .map_or(String::new(), |_| format!(", gradients up to {WHOLE_LENGTH} tokens in one kernel"));
        format!("{} {}, heads of {sizes}{whole}", self.family.name(), self.dtype.name())
    }

    fn runs_on(&self, capability: (u32, u32)) -> bool {
        let [lowest, highest] = self.capabilities;
        (lowest..=highest).contains(&capability)
    }

    fn takes(&self, head_dim: usize) -> bool {
        let [smallest, largest] = self.head_dims;
        head_dim.is_multiple_of(8) && (smallest..=largest).contains(&head_dim)
    }
}

/// What runs on this compute capability, for messages.
fn offers(capability: (u32, u32)) -> String {
    let rows: Vec<String> =
        TABLE.iter().filter(|row| row.runs_on(capability)).map(AttentionKernels::describe).collect();
    if rows.is_empty() {
        return "GPUs of compute capability 8.0 or higher".into();
    }
    format!("{} (in multiples of 8)", rows.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::{Choices, Device};

    #[test]
    fn every_row_fits_every_chip_that_it_is_for() {
        for row in TABLE {
            let kernels = [row.forward, row.backward_queries, row.backward_keys];
            for kernel in kernels.into_iter().chain(row.backward_whole) {
                assert!(PLAN_ROWS.is_multiple_of(kernel.rows), "{}", kernel.name);
                assert!(kernel.threads.is_multiple_of(32) && kernel.threads <= 1024, "{}", kernel.name);
                // What a block may have on compute capability 8.6 and 8.9, and on 9.0.
                let limit = if row.capabilities[0] < (9, 0) { 99 << 10 } else { 227 << 10 };
                assert!(kernel.shared_bytes <= limit, "{}", kernel.name);
            }
        }
    }

    #[test]
    fn a_family_is_refused_where_it_cannot_run() {
        assert!(Device::open("cpu", Choices::default()).is_ok());
        let error = Device::open("cpu", Choices { attention: AttentionPath::Sm90, ..Choices::default() }).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        assert!(error.to_string().contains("--attention sm90 on cpu"), "{error}");
    }

    #[test]
    fn heads_find_their_kernels_or_are_refused_by_name() {
        let choose = |path, dtype, head_dim| AttentionKernels::choose(path, dtype, head_dim, (8, 0), true);
        for (dtype, largest) in [(DType::Bf16, 128), (DType::F32, 256)] {
            for head_dim in (8..=largest).step_by(8) {
                let [smallest, largest] = choose(AttentionPath::Sm80, dtype, head_dim).unwrap().head_dims;
                assert!(smallest <= head_dim && head_dim <= largest);
            }
            for head_dim in [0, 4, 60, largest + 8] {
                let error = choose(AttentionPath::Auto, dtype, head_dim).unwrap_err().to_string();
                assert!(error.contains(&format!("{} heads of {head_dim} elements", dtype.name())), "{error}");
            }
        }
        let error = choose(AttentionPath::Sm90, DType::Bf16, 64).unwrap_err().to_string();
        assert!(error.contains("--attention sm90") && error.contains("8.0") && error.contains("sm80 bf16"), "{error}");
        assert!(AttentionKernels::choose(AttentionPath::Auto, DType::Bf16, 64, (7, 5), false).is_err());
    }

    #[test]
    fn hopper_takes_its_own_kernels_where_they_fit() {
        let family = |head_dim, capability, hooks| {
            AttentionKernels::choose(AttentionPath::Auto, DType::Bf16, head_dim, capability, hooks).unwrap().family
        };
        assert_eq!(family(64, (9, 0), false), AttentionPath::Sm90);
        assert_eq!(family(64, (9, 0), true), AttentionPath::Sm80);
        assert_eq!(family(40, (9, 0), false), AttentionPath::Sm80);
        assert_eq!(family(64, (8, 0), false), AttentionPath::Sm80);
        assert_eq!(family(64, (10, 0), false), AttentionPath::Sm80);
    }

    #[test]
    fn gradients_take_one_kernel_where_it_fits_and_is_not_refused() {
        let whole = |path, head_dim, longest| {
            let kernels = AttentionKernels::choose(path, DType::Bf16, head_dim, (9, 0), false).unwrap();
            kernels.whole(longest).map(|kernel| kernel.name)
        };
        let name = Some("attention_backward_whole_sm90_bf16_d64");
        assert_eq!(whole(AttentionPath::Auto, 64, 512), name);
        assert_eq!(whole(AttentionPath::Sm90, 64, 1), name);
        for (path, head_dim, longest) in
            [(AttentionPath::Auto, 64, 513), (AttentionPath::Sm90Split, 64, 512), (AttentionPath::Auto, 128, 512)]
        {
            assert_eq!(whole(path, head_dim, longest), None);
        }
    }
}
