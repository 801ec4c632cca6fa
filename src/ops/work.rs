//! What every operation costs at the least: the one place that states bytes and arithmetic.
//!
//! Bytes are those that must cross the memory bus if every operand is read once and every result written once; a table that
//! stays in the cache counts once, and statistics of a row count where a kernel keeps them. Functions (exp, erf, the normal
//! density) count as the operations that they take, about; products of matrices count exactly. `element` is the size of an
//! activation in bytes, `gradient` that of a parameter's gradient. The same numbers stand at the head of each `.cu` file.

use super::Gate;
use crate::device::Work;

/// Additions and multiplications that LayerNorm takes for an element, either way.
const LAYERNORM_FLOPS: usize = 15;
/// Those of the exact GELU, and of its derivative.
const GELU_FLOPS: [usize; 2] = [25, 35];
/// Those of SiLU, and of its derivative.
const SILU_FLOPS: [usize; 2] = [12, 15];
/// Those of softmax and its gradient.
const CROSS_ENTROPY_FLOPS: usize = 12;
/// Those of tanh, and of its derivative.
const TANH_FLOPS: [usize; 2] = [20, 3];
/// Those of AdamW for a parameter.
const ADAMW_FLOPS: usize = 12;

/// A look-up in so many tables, of which the largest has `entries` rows; where words are `scaled`, each has its factor.
pub fn embedding_forward(
    rows: usize,
    hidden: usize,
    entries: usize,
    tables: usize,
    scaled: bool,
    element: usize,
) -> Work {
    let (table, scaled) = (rows.min(entries) * hidden * element, usize::from(scaled));
    Work::new(rows * hidden * element + table + 4 * (tables + scaled) * rows, (tables - 1 + scaled) * rows * hidden)
}

/// The gradient of one table.
pub fn embedding_backward(
    rows: usize,
    hidden: usize,
    entries: usize,
    scaled: bool,
    element: usize,
    gradient: usize,
) -> Work {
    let (table, scaled) = (2 * rows.min(entries) * hidden * gradient, usize::from(scaled));
    Work::new(rows * hidden * element + table + 4 * (1 + scaled) * rows, (1 + scaled) * rows * hidden)
}

/// Tokens, and what each of their words is multiplied with.
pub fn embedding_token_dropout(rows: usize, sequences: usize, scale: usize) -> Work {
    Work::new((4 + scale) * rows + 4 * (sequences + 1), rows + 2 * sequences)
}

/// The four kernels that sort tokens by their entry in a table, in their order: counts of each entry in each tile of tokens, running sums
/// of these, where each entry starts, the sorted list.
pub fn embedding_sort(rows: usize, entries: usize, tiles: usize) -> [Work; 4] {
    let (counts, touched) = (entries * tiles, rows.min(entries * tiles));
    let bytes =
        [4 * rows + 8 * touched, 8 * counts + 4 * entries, 8 * entries, 8 * rows + 4 * touched + 4 * rows.min(entries)];
    bytes.map(|bytes| Work::new(bytes, 0))
}

/// What the last kernel of a table's gradient adds: about one run of equal tokens goes on behind each chunk, and has a row of f32.
pub fn embedding_finish(chunks: usize, hidden: usize) -> Work {
    Work::new(chunks * (4 * hidden + 12), chunks * hidden)
}

/// Input and output; a residual is read too, and where there is one, or the input changes, the sum is written.
pub fn layernorm_forward(rows: usize, columns: usize, element: usize, residual: bool, changed: bool) -> Work {
    let tensors = 2 + usize::from(residual) + usize::from(residual || changed);
    Work::new(tensors * rows * columns * element + 8 * rows, LAYERNORM_FLOPS * rows * columns)
}

/// With a dropout, the gradient of the dropped input is a tensor of its own; where the sum has `others` who use it, there is their gradient.
pub fn layernorm_backward(rows: usize, columns: usize, element: usize, dropout: bool, others: bool) -> Work {
    let tensors = 3 + usize::from(dropout) + usize::from(others);
    Work::new(tensors * rows * columns * element + 8 * rows, LAYERNORM_FLOPS * rows * columns)
}

/// Input and output.
pub fn bias_gelu_forward(elements: usize, element: usize) -> Work {
    Work::new(2 * elements * element, GELU_FLOPS[0] * elements)
}

/// Input, gradient and result.
pub fn bias_gelu_backward(elements: usize, element: usize) -> Work {
    Work::new(3 * elements * element, GELU_FLOPS[1] * elements)
}

/// GELU behind a product's sums: one more result.
pub fn gelu_epilogue(elements: usize, element: usize) -> Work {
    Work::new(elements * element, GELU_FLOPS[0] * elements)
}

/// GELU's derivative behind a product's sums: its input is read.
pub fn gelu_gradient_epilogue(elements: usize, element: usize) -> Work {
    Work::new(elements * element, GELU_FLOPS[1] * elements)
}

/// Loss and gradient in place.
pub fn cross_entropy(rows: usize, classes: usize, element: usize) -> Work {
    Work::new(2 * rows * classes * element + 12 * rows, CROSS_ENTROPY_FLOPS * rows * classes)
}

/// Gradient and losses of rows that count unequally, in place.
pub fn cross_entropy_weigh(rows: usize, classes: usize, element: usize) -> Work {
    Work::new(2 * rows * classes * element + 12 * rows + 4 * classes, rows * (classes + 40))
}

/// The sum of the losses and the number of hits.
pub fn loss_total(rows: usize) -> Work {
    Work::new(8 * rows + 16, 2 * rows)
}

/// One read and one write, forward and backward.
pub fn dropout(elements: usize, element: usize) -> Work {
    Work::new(2 * elements * element, elements)
}

/// The chosen rows, read and written.
pub fn gather_forward(rows: usize, columns: usize, element: usize) -> Work {
    Work::new(2 * rows * columns * element + 4 * rows, 0)
}

/// Rows added to; `zeroed` elements are set to zero first.
pub fn gather_backward(rows: usize, columns: usize, zeroed: usize, element: usize) -> Work {
    Work::new((3 * rows * columns + zeroed) * element + 4 * rows, rows * columns)
}

/// `sum += term`.
pub fn accumulate(elements: usize, element: usize) -> Work {
    Work::new(3 * elements * element, elements)
}

/// In place.
pub fn tanh_forward(elements: usize, element: usize) -> Work {
    Work::new(2 * elements * element, TANH_FLOPS[0] * elements)
}

/// Output, gradient and result.
pub fn tanh_backward(elements: usize, element: usize) -> Work {
    Work::new(3 * elements * element, TANH_FLOPS[1] * elements)
}

/// In place.
pub fn relu_forward(elements: usize, element: usize) -> Work {
    Work::new(2 * elements * element, elements)
}

/// Output, gradient and result.
pub fn relu_backward(elements: usize, element: usize) -> Work {
    Work::new(3 * elements * element, elements)
}

/// Queries and keys, read and written.
pub fn rotary(rows: usize, columns: usize, element: usize) -> Work {
    let turned = rows * (columns / 3 * 2);
    Work::new(2 * turned * element + 4 * rows, 3 * turned)
}

/// Both halves, and what comes of them.
pub fn gated_forward(elements: usize, element: usize, gate: Gate) -> Work {
    Work::new(3 * elements * element, (gate_flops(gate)[0] + 2) * elements)
}

/// Both halves and a gradient, and the gradients of both.
pub fn gated_backward(elements: usize, element: usize, gate: Gate) -> Work {
    Work::new(5 * elements * element, (gate_flops(gate)[1] + 4) * elements)
}

fn gate_flops(gate: Gate) -> [usize; 2] {
    match gate {
        Gate::Gelu => GELU_FLOPS,
        Gate::Silu => SILU_FLOPS,
    }
}

/// Input and output; a residual is read too.
pub fn residual(rows: usize, columns: usize, element: usize, residual: bool) -> Work {
    Work::new((2 + usize::from(residual)) * rows * columns * element, 3 * rows * columns)
}

/// A product of `[m, k]` and `[k, n]`; `output` is the size of an element of the result, which is read too if it is added
/// to.
pub fn product([m, n, k]: [usize; 3], element: usize, output: usize, adds: bool) -> Work {
    Work::new((m * k + k * n) * element + (1 + usize::from(adds)) * m * n * output, 2 * m * n * k)
}

/// The sums over the rows: the gradient of a bias.
pub fn column_sums(rows: usize, columns: usize, element: usize) -> Work {
    Work::new(rows * columns * element, rows * columns)
}

/// The second stage of a sum: `parts` f32 partial sums of each of `results`, which have `result` bytes and are read too if they are added
/// to.
pub fn sum_of_parts(parts: usize, results: usize, result: usize, adds: bool) -> Work {
    Work::new(results * (4 * parts + (1 + usize::from(adds)) * result), results * parts)
}

/// The list of blocks of rows of all sequences, and their order.
pub fn attention_plan(sequences: usize, entries: usize) -> Work {
    Work::new(4 * (2 * sequences + 1) + 12 * entries, 0)
}

/// The products of output and its gradient in each row and head, beside the row's sum of exponentials.
pub fn attention_row_terms(rows: usize, hidden: usize, heads: usize, element: usize) -> Work {
    Work::new(2 * rows * hidden * element + 12 * rows * heads, 2 * rows * hidden)
}

/// `pairs` is the sum of the squared lengths of the sequences: two products of `hidden` for each.
pub fn attention_forward(rows: usize, hidden: usize, heads: usize, pairs: u64, element: usize) -> Work {
    Work { flops: 4.0 * hidden as f64 * pairs as f64, ..Work::new(4 * rows * hidden * element + 4 * rows * heads, 0) }
}

/// Five products for each pair; a device takes seven where queries and keys are done one after the other.
pub fn attention_backward(rows: usize, hidden: usize, heads: usize, pairs: u64, element: usize) -> Work {
    Work { flops: 10.0 * hidden as f64 * pairs as f64, ..Work::new(8 * rows * hidden * element + 4 * rows * heads, 0) }
}

/// A kernel of the way back: `products` of the pairs (3 for the queries, 4 for the keys, 5 for all at once); it reads the inputs and the
/// output's gradient and writes its part of the inputs' gradients.
pub fn attention_gradients(
    rows: usize,
    hidden: usize,
    heads: usize,
    pairs: u64,
    products: usize,
    element: usize,
) -> Work {
    let tensors = 2 + products;
    let flops = 2.0 * (products * hidden) as f64 * pairs as f64;
    Work { flops, ..Work::new(tensors * rows * hidden * element + 8 * rows * heads, 0) }
}

/// Sum of squares.
pub fn norm(parameters: usize, gradient: usize) -> Work {
    Work::new(parameters * gradient, 2 * parameters)
}

/// The sum of the `parts` f64 partial sums, and what is made of it.
pub fn norm_finish(parts: usize) -> Work {
    Work::new(8 * parts + 8, parts)
}

/// The five kernels that make a batch of `tokens`, of which `masked` are hidden, in their order: windows of the genome, tokens, what is
/// hidden, how many of them, the rows and labels. `sequences` is what there is room for.
pub fn sampling(tokens: usize, sequences: usize, masked: usize, tiles: usize) -> [Work; 5] {
    let read_windows = 12 * sequences;
    let bytes = [
        read_windows + 16,
        tokens / 4 + read_windows + 9 * tokens,
        4 * sequences + masked,
        tokens + 4 * tiles,
        tokens + 4 * tiles + 16 * masked,
    ];
    bytes.map(|bytes| Work::new(bytes, 0))
}

/// Weight, gradient and two moments, each read and written, of `gradient` bytes; and where the weights are copies of `weight`
/// bytes, those written.
pub fn adamw(parameters: usize, weight: usize, gradient: usize, master: bool) -> Work {
    let weights = if master { 2 * gradient + weight } else { 2 * weight };
    Work::new(parameters * (6 * gradient + weights), ADAMW_FLOPS * parameters)
}

/// Updates of skip-gram in vectors of `width` numbers: those that learn and those that they meet are read and written, a product and two sums for each
/// that is met. Of `genes` vectors none counts twice: they stay in the cache.
pub fn skip_gram(updates: usize, negatives: usize, genes: usize, width: usize) -> Work {
    let met = updates * (negatives + 1);
    let rows = updates.min(genes) + met.min(genes);
    Work::new(2 * 4 * rows * width + 12 * updates, (6 * met + updates) * width)
}
