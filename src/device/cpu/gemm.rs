//! Matrix products through the `gemm` crate.

use super::Real;

/// A matrix inside a slice, by its strides.
#[derive(Clone, Copy)]
pub struct View<'a, T> {
    values: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// A row-major matrix.
    pub fn new(values: &'a [T], rows: usize, columns: usize) -> Self {
        Self::strided(values, rows, columns, columns)
    }

    /// A matrix whose rows lie `row_stride` elements apart.
    pub fn strided(values: &'a [T], rows: usize, columns: usize, row_stride: usize) -> Self {
        let view = Self { values, rows, columns, row_stride, column_stride: 1 };
        assert!(extent(rows, columns, row_stride) <= values.len(), "view beyond its slice");
        view
    }

    /// The same elements, transposed.
    pub fn transposed(self) -> Self {
        Self {
            values: self.values,
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
        }
    }
}

/// Elements from the first to the last of a row-major matrix.
fn extent(rows: usize, columns: usize, row_stride: usize) -> usize {
    if rows == 0 || columns == 0 { 0 } else { (rows - 1) * row_stride + columns }
}

/// What happens to the old contents of a product's output.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Write {
    /// `output = product`.
    Replace,
    /// `output += product`.
    Add,
}

/// Who works on a product.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// All of rayon's threads.
    All,
    /// The calling thread alone (it is one of many tasks already).
    One,
}

/// `output (=, +=) scale * left . right`, where `output` is `[left.rows, right.columns]` with rows `output_stride` apart.
///
/// # Panics
/// If the shapes do not fit: a fault of the caller, never of input.
pub fn gemm<T: Real>(
    output: &mut [T],
    output_stride: usize,
    write: Write,
    left: View<T>,
    right: View<T>,
    scale: T,
    threads: Threads,
) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    assert_eq!(k, right.rows, "inner dimensions differ");
    assert!(extent(m, n, output_stride) <= output.len(), "product beyond its output");
    assert!(n <= output_stride || m <= 1, "rows of the output overlap");
    if m == 0 || n == 0 {
        return;
    }
    let parallelism = match threads {
        Threads::All if rayon::current_num_threads() > 1 => gemm::Parallelism::Rayon(0),
        _ => gemm::Parallelism::None,
    };
    let add = write == Write::Add;
    // SAFETY: the asserts above and in `View` keep every address that the strides reach inside its slice, `output` is
    // borrowed mutably and so overlaps neither operand, and `T` is f32 or f64, both known to the crate.
    unsafe {
        gemm::gemm(
            m,
            n,
            k,
            output.as_mut_ptr(),
            1,
            output_stride as isize,
            add,
            left.values.as_ptr(),
            left.column_stride as isize,
            left.row_stride as isize,
            right.values.as_ptr(),
            right.column_stride as isize,
            right.row_stride as isize,
            if add { T::ONE } else { T::ZERO },
            scale,
            false,
            false,
            false,
            parallelism,
        );
    }
}

/// Rows from which on a product of rows of `k` with `n` columns is computed in the general way. Of fewer the `gemm` crate (0.19) makes
/// dot products, matrix-vector products, or cuts sums over k elsewhere.
fn least_rows(n: usize, k: usize) -> usize {
    const DOT_PRODUCTS: usize = 16 * 16;
    const SMALL: usize = 64;
    const SMALL_K: usize = 512;
    let uncut = if n <= SMALL && k > SMALL_K { SMALL + 1 } else { 2 };
    uncut.max(DOT_PRODUCTS / n + 1)
}

/// As [`gemm()`], of rows that know nothing of one another: each has the same bits whatever stands beside it, and how much. Few
/// rows are padded with zeros.
///
/// # Panics
/// As [`gemm()`].
pub fn gemm_by_rows<T: Real>(
    output: &mut [T],
    output_stride: usize,
    write: Write,
    left: View<T>,
    right: View<T>,
    threads: Threads,
) {
    let (m, n, k) = (left.rows, right.columns, left.columns);
    let least = if m == 0 || n == 0 { 0 } else { least_rows(n, k) };
    if m >= least {
        return gemm(output, output_stride, write, left, right, T::ONE, threads);
    }
    assert!(left.column_stride == 1, "rows do not lie together");
    let mut rows = vec![T::ZERO; least * k];
    for (padded, row) in rows.chunks_exact_mut(k.max(1)).zip(left.values.chunks(left.row_stride.max(1))).take(m) {
        padded.copy_from_slice(&row[..k]);
    }
    let mut products = vec![T::ZERO; least * n];
    if write == Write::Add {
        products
            .chunks_exact_mut(n)
            .zip(output.chunks(output_stride))
            .take(m)
            .for_each(|(to, of)| to.copy_from_slice(&of[..n]));
    }
    gemm(&mut products, n, write, View::new(&rows, least, k), right, T::ONE, threads);
    output
        .chunks_mut(output_stride)
        .zip(products.chunks_exact(n))
        .take(m)
        .for_each(|(to, of)| to[..n].copy_from_slice(of));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In every way that the crate chooses by the sizes, alone, first, last and in the middle.
    #[test]
    fn a_row_has_the_same_bits_whatever_stands_beside_it() {
        fn check<T: Real>() {
            for (n, k) in [
                (1, 5),
                (1, 768),
                (2, 768),
                (3, 64),
                (3, 1),
                (3, 2),
                (32, 32),
                (64, 600),
                (64, 1500),
                (80, 768),
                (257, 3),
                (768, 1100),
            ] {
                let weight: Vec<T> = (0..n * k).map(|i| T::of((i as f64 * 1.7).sin())).collect();
                let rows: Vec<T> = (0..300 * k).map(|i| T::of((i as f64 * 0.9).cos())).collect();
                let weight = View::new(&weight, n, k).transposed();
                for write in [Write::Replace, Write::Add] {
                    let product = |first: usize, m: usize, threads| {
                        let mut output: Vec<T> = vec![T::of(0.3); m * (n + 1)];
                        let left = View::new(&rows[first * k..], m, k);
                        gemm_by_rows(&mut output, n + 1, write, left, weight, threads);
                        output
                    };
                    let bits = |row: &[T]| row[..n].iter().map(|value| value.to_f64().to_bits()).collect::<Vec<_>>();
                    let all = product(0, 300, Threads::All);
                    for m in [1, 2, 3, 5, 8, 9, 31, 64, 65, 70, 127, 256, 257] {
                        for first in [0, 1, 17, 300 - m] {
                            let some = product(first, m.min(300 - first), Threads::One);
                            for (row, of_all) in some.chunks(n + 1).zip(all[first * (n + 1)..].chunks(n + 1)) {
                                assert!(bits(row) == bits(of_all), "{m} rows from {first}: [{n}, {k}]");
                            }
                        }
                    }
                }
            }
        }
        check::<f32>();
        check::<f64>();
    }

    #[test]
    fn all_layouts_against_three_loops() {
        let (m, n, k) = (5, 7, 3);
        let left: Vec<f64> = (0..m * k).map(|i| (i as f64).sin()).collect();
        let right: Vec<f64> = (0..n * k).map(|i| (i as f64).cos()).collect();
        let stride = n + 2;
        let mut output = vec![1.0; m * stride];
        let view = View::new(&right, n, k).transposed();
        gemm(&mut output, stride, Write::Add, View::new(&left, m, k), view, 2.0, Threads::All);
        for i in 0..m {
            for j in 0..n {
                let expected = 1.0 + 2.0 * (0..k).map(|p| left[i * k + p] * right[j * k + p]).sum::<f64>();
                assert!((output[i * stride + j] - expected).abs() < 1e-12);
            }
            assert_eq!(&output[i * stride + n..][..2], [1.0, 1.0]);
        }
    }
}
