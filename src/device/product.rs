//! A matrix product as data: what our kernels are launched for, or a vendor's library is asked for.

use super::{DType, Work};

/// Which operands of a product are transposed. All matrices are row-major.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Layout {
    /// `C = A B^T` with A `[m, k]`, B `[n, k]`: forward through a linear layer.
    Nt,
    /// `C = A B` with A `[m, k]`, B `[k, n]`: the gradient of its input.
    Nn,
    /// `C = A^T B` with A `[k, m]`, B `[k, n]`: the gradient of its weight.
    Tn,
}

impl Layout {
    /// The name of its kernels, without the type.
    pub fn kernel(self) -> &'static str {
        match self {
            Self::Nt => "gemm_nt",
            Self::Nn => "gemm_nn",
            Self::Tn => "gemm_tn",
        }
    }
}

/// `C = scale op(A) op(B) + bias (+ C)` in the memory of one device.
#[derive(Clone, Copy, Debug)]
pub struct Product {
    /// Which operands are transposed.
    pub layout: Layout,
    /// m, n, k: rows and columns of C, and the length of the sums.
    pub sizes: [usize; 3],
    /// Elements from row to row of A, B and C.
    pub strides: [usize; 3],
    /// Type of A, B and the bias.
    pub operands: DType,
    /// Type of C.
    pub output: DType,
    /// What the product is multiplied with.
    pub scale: f32,
    /// Whether the product is added to C.
    pub accumulate: bool,
    /// Address of A.
    pub a: u64,
    /// Address of B.
    pub b: u64,
    /// Address of the bias, `[n]`.
    pub bias: Option<u64>,
    /// Address of C.
    pub c: u64,
}

impl Product {
    /// Bytes and arithmetic that it costs at the least: every operand read and the result written once.
    pub fn work(&self) -> Work {
        let [m, n, k] = self.sizes;
        let results = (1 + usize::from(self.accumulate)) * m * n * self.output.size();
        Work::new((m * k + k * n) * self.operands.size() + results, 2 * m * n * k)
    }

    /// How the names of its kernels end, as in `bf16_f32`.
    pub fn types(&self) -> String {
        match (self.operands, self.output) {
            (operands, output) if operands == output => operands.name().to_owned(),
            (operands, output) => format!("{}_{}", operands.name(), output.name()),
        }
    }

    /// The rows of tokens in it, which change from batch to batch: those of C, or of both operands where the weight's gradient
    /// is computed.
    pub fn rows(&self) -> usize {
        let [m, _, k] = self.sizes;
        if self.layout == Layout::Tn { k } else { m }
    }
}

impl std::fmt::Display for Product {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [m, n, k] = self.sizes;
        write!(f, "{}_{} ({m} x {n}, k = {k}, strides {:?})", self.layout.kernel(), self.types(), self.strides)
    }
}
