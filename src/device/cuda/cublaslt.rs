//! Matrix products by NVIDIA's cuBLASLt, which is opened at run time where it is installed.
//!
//! cuBLASLt thinks in columns, we in rows. A row-major matrix is, read column by column, its own transpose; so our `C = op(A) op(B)` is
//! the column-major `C^T = op(B)^T op(A)^T`: B goes first, and whether an operand is transposed follows from the layout
//! (`ColumnMajor::of`). Nothing is copied.

use std::collections::HashMap;
use std::ffi::c_void;
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};

use cudarc::cublaslt::sys;
use cudarc::driver::sys::CUstream;

use super::library::{Failure, cublaslt, describe, driver};
use crate::device::DType;
use crate::device::product::{Layout, Product};
use crate::{Error, Result};

/// Bytes that the library may use for partial sums; what NVIDIA recommends for Hopper, and little enough elsewhere.
const WORKSPACE_BYTES: usize = 32 << 20;

/// The library as this machine has it.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Library {
    /// Its version, as in "12.8.5".
    pub version: String,
    /// Its file, where the system says.
    pub path: Option<String>,
}

/// The library, if it can be opened.
pub fn library() -> Option<Library> {
    // SAFETY: opens and closes the library by its name; its initialisers are NVIDIA's.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    // SAFETY: the library is present; the call takes and changes nothing.
    let version = unsafe { sys::cublasLtGetVersion() };
    let version = format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100);
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap_or_default();
    let path = maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("cublasLt")));
    Some(Library { version, path: path.map(str::to_owned) })
}

/// A handle, a workspace, and what has been prepared for the shapes seen so far.
pub(super) struct CublasLt {
    handle: sys::cublasLtHandle_t,
    workspace: u64,
    plans: Mutex<HashMap<Key, Option<Plan>>>,
}

/// What a plan depends on.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Key {
    layout: Layout,
    sizes: [usize; 3],
    strides: [usize; 3],
    types: [DType; 2],
    bias: bool,
    /// Bytes that the addresses of A, B and C are multiples of.
    alignments: [u32; 3],
}

impl Key {
    fn of(product: &Product) -> Self {
        let alignment = |address: u64| 1 << address.trailing_zeros().min(8);
        Self {
            layout: product.layout,
            sizes: product.sizes,
            strides: product.strides,
            types: [product.operands, product.output],
            bias: product.bias.is_some(),
            alignments: [product.a, product.b, product.c].map(alignment),
        }
    }
}

/// Descriptors and the algorithm for one shape. They live as long as the process.
#[derive(Clone, Copy)]
struct Plan {
    description: sys::cublasLtMatmulDesc_t,
    first: sys::cublasLtMatrixLayout_t,
    second: sys::cublasLtMatrixLayout_t,
    output: sys::cublasLtMatrixLayout_t,
    algorithm: sys::cublasLtMatmulAlgo_t,
}

// SAFETY: a handle of cuBLASLt may be used from several threads; plans and workspace are used behind the mutex, in the order of
// one stream.
unsafe impl Send for CublasLt {}
// SAFETY: as above.
unsafe impl Sync for CublasLt {}

impl CublasLt {
    /// Opens the library for the current CUDA context.
    pub(super) fn open() -> Result<Self> {
        if library().is_none() {
            return Err(Error::usage(
                "cuBLASLt is not on this machine (libcublasLt.so cannot be opened)",
                "install NVIDIA's cuBLAS and put its folder into LD_LIBRARY_PATH, or use --gemm own",
            ));
        }
        let cannot = |what: &str, why: String| Error::Failed(format!("cuBLASLt cannot {what}: {why}"));
        let (mut handle, mut workspace) = (std::ptr::null_mut(), 0);
        // SAFETY: the library is present, and writes one handle.
        unsafe { cublaslt::cublasLtCreate(&raw mut handle) }.map_err(|error| cannot("start", words(error)))?;
        // SAFETY: the driver is present and its context current; the memory is workspace, which the library writes before it reads.
        unsafe { driver::cuMemAlloc_v2(&raw mut workspace, WORKSPACE_BYTES) }
            .map_err(|error| cannot("have a workspace of 32 MiB", describe(error)))?;
        Ok(Self { handle, workspace, plans: Mutex::default() })
    }

    /// Computes `product` on `stream`; `false` where the library has no algorithm for it.
    ///
    /// # Safety
    /// The addresses of `product` lead to matrices of its sizes and strides in the current context, and the stream belongs to it.
    pub(super) unsafe fn multiply(&self, product: &Product, stream: CUstream) -> Result<bool> {
        let failed = |error| Error::Failed(format!("cuBLASLt cannot compute {product}: {}", words(error)));
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        let key = Key::of(product);
        let plan = match plans.get(&key) {
            Some(plan) => *plan,
            None => {
                let plan = self.plan(product, key.alignments).map_err(failed)?;
                if plan.is_none() {
                    tracing::warn!("cuBLASLt does not take {product}: our kernel computes it");
                }
                plans.insert(key, plan);
                plan
            }
        };
        let Some(plan) = plan else { return Ok(false) };
        if let Some(bias) = product.bias {
            // SAFETY: the description lives, and the attribute is a pointer.
            unsafe { set(plan.description, Attribute::CUBLASLT_MATMUL_DESC_BIAS_POINTER, &bias) }.map_err(failed)?;
        }
        let (alpha, beta) = (product.scale, if product.accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: the caller's promise; alpha and beta are read before the call returns (the default pointer mode, the host's); the
        // workspace has the size that the plan was made for, and the stream keeps its users in order.
        unsafe {
            cublaslt::cublasLtMatmul(
                self.handle,
                plan.description,
                (&raw const alpha).cast(),
                product.b as *const c_void,
                plan.first,
                product.a as *const c_void,
                plan.second,
                (&raw const beta).cast(),
                product.c as *const c_void,
                plan.output,
                product.c as *mut c_void,
                plan.output,
                &raw const plan.algorithm,
                self.workspace as *mut c_void,
                WORKSPACE_BYTES,
                stream.cast(),
            )
        }
        .map_err(failed)?;
        Ok(true)
    }

    /// Descriptors and the library's choice of algorithm; `None` where it has none.
    fn plan(&self, product: &Product, alignments: [u32; 3]) -> Result<Option<Plan>, Failure> {
        let (Some(operands), Some(output)) = (data_type(product.operands), data_type(product.output)) else {
            return Ok(None);
        };
        if product.bias.is_some() && product.operands != product.output {
            return Ok(None); // it would read the bias in the output's type
        }
        let call = ColumnMajor::of(product);
        let matrix = |kind, stored: Stored| {
            let (rows, columns, stride) = (stored.rows as u64, stored.columns as u64, stored.stride as i64);
            let mut layout = std::ptr::null_mut();
            // SAFETY: the library is present, and writes one handle.
            unsafe { cublaslt::cublasLtMatrixLayoutCreate(&raw mut layout, kind, rows, columns, stride) }?;
            Ok::<_, Failure>(layout)
        };
        let first = matrix(operands, call.first.stored)?;
        let second = matrix(operands, call.second.stored)?;
        let c = matrix(output, call.output)?;
        let (compute, scale) = (sys::cublasComputeType_t::CUBLAS_COMPUTE_32F, sys::cudaDataType_t::CUDA_R_32F);
        let (mut description, mut preference) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: as above.
        unsafe { cublaslt::cublasLtMatmulDescCreate(&raw mut description, compute, scale) }?;
        // SAFETY: as above.
        unsafe { cublaslt::cublasLtMatmulPreferenceCreate(&raw mut preference) }?;
        let epilogue = match product.bias {
            Some(_) => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_BIAS,
            None => sys::cublasLtEpilogue_t::CUBLASLT_EPILOGUE_DEFAULT,
        };
        // SAFETY: description, preference and layouts live; each attribute gets a value of the type that NVIDIA's manual names
        // (32-bit integers, 64-bit sizes).
        unsafe {
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSA, &i32::from(call.first.transposed))?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_TRANSB, &i32::from(call.second.transposed))?;
            set(description, Attribute::CUBLASLT_MATMUL_DESC_EPILOGUE, &(epilogue as u32))?;
            prefer(preference, Preference::CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &(WORKSPACE_BYTES as u64))?;
            // It assumes 256 bytes unless told.
            let [a, b, c_alignment] = alignments;
            prefer(preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, &b)?;
            prefer(preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, &a)?;
            prefer(preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, &c_alignment)?;
            prefer(preference, Preference::CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, &c_alignment)?;
        }
        let (mut result, mut count) = (MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::uninit(), 0);
        // SAFETY: all handles live; there is room for the one result that is wanted.
        let found = unsafe {
            cublaslt::cublasLtMatmulAlgoGetHeuristic(
                self.handle,
                description,
                first,
                second,
                c,
                c,
                preference,
                1,
                result.as_mut_ptr(),
                &raw mut count,
            )
        };
        // SAFETY: nobody uses it any more.
        unsafe { cublaslt::cublasLtMatmulPreferenceDestroy(preference) }?;
        match found {
            Ok(()) if count == 1 => {
                // SAFETY: the library has written the result. Of its other fields one is a status, which is not looked at.
                let algorithm = unsafe { (&raw const (*result.as_ptr()).algo).read() };
                Ok(Some(Plan { description, first, second, output: c, algorithm }))
            }
            Ok(()) => Ok(None),
            Err(Failure::Status(status)) if status == sys::cublasStatus_t::CUBLAS_STATUS_NOT_SUPPORTED as u32 => {
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}

/// Why the library failed: its statuses are few, and its manual lists them by number.
fn words(failure: Failure) -> String {
    match failure {
        Failure::Status(status) => format!("its status is {status} (cublasStatus_t in NVIDIA's manual)"),
        Failure::Missing(function) => format!("it has no {function}; install a newer one (CUDA 12.8 or later)"),
    }
}

use sys::cublasLtMatmulDescAttributes_t as Attribute;
use sys::cublasLtMatmulPreferenceAttributes_t as Preference;

/// # Safety
/// The description lives, and the attribute is of type `T`.
unsafe fn set<T>(of: sys::cublasLtMatmulDesc_t, attribute: Attribute, value: &T) -> Result<(), Failure> {
    let (value, bytes) = (std::ptr::from_ref(value).cast(), size_of::<T>());
    // SAFETY: the caller's promise; the value is copied.
    unsafe { cublaslt::cublasLtMatmulDescSetAttribute(of, attribute, value, bytes) }
}

/// # Safety
/// The preference lives, and the attribute is of type `T`.
unsafe fn prefer<T>(of: sys::cublasLtMatmulPreference_t, attribute: Preference, value: &T) -> Result<(), Failure> {
    let (value, bytes) = (std::ptr::from_ref(value).cast(), size_of::<T>());
    // SAFETY: the caller's promise; the value is copied.
    unsafe { cublaslt::cublasLtMatmulPreferenceSetAttribute(of, attribute, value, bytes) }
}

fn data_type(dtype: DType) -> Option<sys::cudaDataType_t> {
    match dtype {
        DType::Bf16 => Some(sys::cudaDataType_t::CUDA_R_16BF),
        DType::F32 => Some(sys::cudaDataType_t::CUDA_R_32F),
        _ => None,
    }
}

/// A column-major matrix as it lies in memory: element (i, j) is at `i + j * stride`.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Stored {
    rows: usize,
    columns: usize,
    stride: usize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Operand {
    stored: Stored,
    transposed: bool,
}

/// The column-major product `output = op(first) op(second)` that does what a row-major [`Product`] asks for: first is its B, second
/// its A.
#[derive(Clone, Copy, Debug, PartialEq)]
struct ColumnMajor {
    first: Operand,
    second: Operand,
    output: Stored,
}

impl ColumnMajor {
    fn of(product: &Product) -> Self {
        let [m, n, k] = product.sizes;
        let [lda, ldb, ldc] = product.strides;
        // A row-major matrix of so many rows and columns, read column by column.
        let read = |rows: usize, columns: usize, stride| Stored { rows: columns, columns: rows, stride };
        let operand = |stored, transposed| Operand { stored, transposed };
        let (a, b) = match product.layout {
            Layout::Nt => (operand(read(m, k, lda), false), operand(read(n, k, ldb), true)),
            Layout::Nn => (operand(read(m, k, lda), false), operand(read(k, n, ldb), false)),
            Layout::Tn => (operand(read(k, m, lda), true), operand(read(k, n, ldb), false)),
        };
        Self { first: b, second: a, output: read(m, n, ldc) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Operand {
        /// Rows and columns after the transposition.
        fn sizes(&self) -> [usize; 2] {
            let Stored { rows, columns, .. } = self.stored;
            if self.transposed { [columns, rows] } else { [rows, columns] }
        }

        fn at(&self, values: &[f64], row: usize, column: usize) -> f64 {
            let (i, j) = if self.transposed { (column, row) } else { (row, column) };
            assert!(i < self.stored.rows && j < self.stored.columns);
            values[i + j * self.stored.stride]
        }
    }

    /// What the column-major call computes, as BLAS defines it.
    fn call(call: &ColumnMajor, first: &[f64], second: &[f64], output: &mut [f64]) {
        let [[rows, inner], [inner_too, columns]] = [call.first.sizes(), call.second.sizes()];
        assert_eq!((inner, call.output.rows, call.output.columns), (inner_too, rows, columns));
        for operand in [call.first.stored, call.second.stored, call.output] {
            assert!(operand.stride >= operand.rows, "a leading dimension shorter than a column");
        }
        for i in 0..rows {
            for j in 0..columns {
                let sum = (0..inner).map(|p| call.first.at(first, i, p) * call.second.at(second, p, j)).sum::<f64>();
                output[i + j * call.output.stride] += sum;
            }
        }
    }

    #[test]
    fn the_column_major_call_is_the_row_major_product() {
        let (m, n, k) = (5, 7, 3);
        for layout in [Layout::Nt, Layout::Nn, Layout::Tn] {
            let [a_size, b_size] = match layout {
                Layout::Nt => [[m, k], [n, k]],
                Layout::Nn => [[m, k], [k, n]],
                Layout::Tn => [[k, m], [k, n]],
            };
            let strides = [a_size[1] + 2, b_size[1] + 1, n + 4];
            let a: Vec<f64> = (0..a_size[0] * strides[0]).map(|i| (i as f64).sin()).collect();
            let b: Vec<f64> = (0..b_size[0] * strides[1]).map(|i| (i as f64).cos()).collect();
            let product = Product {
                layout,
                sizes: [m, n, k],
                strides,
                operands: DType::Bf16,
                output: DType::F32,
                scale: 1.0,
                accumulate: true,
                a: 0,
                b: 0,
                bias: None,
                c: 0,
            };
            let mut c = vec![1.0; m * strides[2]];
            call(&ColumnMajor::of(&product), &b, &a, &mut c);
            for row in 0..m {
                for column in 0..strides[2] {
                    let left = |p: usize| match layout {
                        Layout::Tn => a[p * strides[0] + row],
                        _ => a[row * strides[0] + p],
                    };
                    let right = |p: usize| match layout {
                        Layout::Nt => b[column * strides[1] + p],
                        _ => b[p * strides[1] + column],
                    };
                    let expected = match column < n {
                        true => 1.0 + (0..k).map(|p| left(p) * right(p)).sum::<f64>(),
                        false => 1.0,
                    };
                    assert!((c[row * strides[2] + column] - expected).abs() < 1e-12, "{layout:?} {row} {column}");
                }
            }
        }
    }

    #[test]
    fn alignment_is_that_of_the_address_and_at_most_256_bytes() {
        let product = Product {
            layout: Layout::Nt,
            sizes: [1; 3],
            strides: [1; 3],
            operands: DType::Bf16,
            output: DType::Bf16,
            scale: 1.0,
            accumulate: false,
            a: 0x7000_0002,
            b: 0x7000_0080,
            bias: None,
            c: 0x7000_0000,
        };
        assert_eq!(Key::of(&product).alignments, [2, 128, 256]);
    }

    #[test]
    fn a_machine_without_the_library_is_told_so() {
        if library().is_none() {
            let error = CublasLt::open().err().expect("there is no library").to_string();
            assert!(error.contains("libcublasLt.so") && error.contains("--gemm own"), "{error}");
        }
    }
}
