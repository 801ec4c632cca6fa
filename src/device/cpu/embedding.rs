//! `y[t] = scale[t] word[token[t]] + position[t's position] + type[t's type]`, and the sums that flow back into the tables.

use rayon::prelude::*;

use super::{ROWS_PER_TASK, Real, add_assign, real};

/// Writes the sums of table rows to `output` (`[total_tokens, hidden]`).
/// `tables` are word, position and type (`[entries, hidden]`), those that there are, and `indices` their rows, `[total_tokens]` each. The
/// word's row is multiplied with `scales` (`[total_tokens]`), if they are given.
pub fn forward<T: Real>(
    tables: [Option<&[T]>; 3],
    indices: [&[i32]; 3],
    scales: Option<&[T]>,
    hidden: usize,
    output: &mut [T],
) {
    output.par_chunks_mut(ROWS_PER_TASK * hidden).enumerate().for_each(|(task, rows)| {
        for (offset, row) in rows.chunks_exact_mut(hidden).enumerate() {
            let token = task * ROWS_PER_TASK + offset;
            let [word, position, kind] =
                [0, 1, 2].map(|i| Some(&tables[i]?[indices[i][token] as usize * hidden..][..hidden]));
            match word {
                Some(word) => row.copy_from_slice(word),
                None => row.fill(T::ZERO),
            }
            if let Some(scales) = scales {
                multiply(row, scales[token]);
            }
            [position, kind].into_iter().flatten().for_each(|term| add_assign(row, term));
        }
    });
}

#[inline(always)]
fn multiply<T: Real>(row: &mut [T], factor: T) {
    real::dispatch(
        #[inline(always)]
        || row.iter_mut().for_each(|value| *value = *value * factor),
    );
}

/// What ESM's token dropout multiplies words with (Hugging Face's EsmEmbeddings): nothing is left of a token that is `mask`, and the others
/// of its sequence grow as if 12 % of them were hidden on average, `0.88 / (1 - masked / length)`. A sequence of masks only is all 0.
pub fn token_dropout<T: Real>(tokens: &[i32], cu_seqlens: &[i32], mask: i32, scales: &mut [T]) {
    for pair in cu_seqlens.windows(2) {
        let range = pair[0] as usize..pair[1] as usize;
        let tokens = &tokens[range.clone()];
        let seen = tokens.iter().filter(|&&token| token != mask).count();
        let scale = T::of(TOKEN_DROPOUT_KEPT * tokens.len() as f64 / seen.max(1) as f64);
        for (&token, value) in tokens.iter().zip(&mut scales[range]) {
            *value = if token == mask { T::ZERO } else { scale };
        }
    }
}

/// 1 - 0.15 * 0.8: the share of tokens that are not `<mask>` in training, whatever they are masked with.
const TOKEN_DROPOUT_KEPT: f64 = 0.88;

/// Adds each row of `d_output` (`[total_tokens, hidden]`), times its scale where there are `scales` (`[total_tokens]`), to row `indices[t]`
/// of `d_table` (`[entries, hidden]`).
/// Tokens are sorted by entry first, so every entry is summed by one task, in token order. The entry `padding`, if one
/// is given, takes no gradient.
pub fn backward<T: Real>(
    d_output: &[T],
    indices: &[i32],
    scales: Option<&[T]>,
    padding: Option<usize>,
    hidden: usize,
    d_table: &mut [T],
) {
    let add = |sum: &mut [T], token: u32| {
        let row = &d_output[token as usize * hidden..][..hidden];
        match scales {
            Some(scales) => add_scaled(sum, row, scales[token as usize]),
            None => add_assign(sum, row),
        }
    };
    let entries = d_table.len() / hidden;
    let mut starts = vec![0u32; entries + 1];
    for &index in indices {
        starts[index as usize + 1] += 1;
    }
    for entry in 0..entries {
        starts[entry + 1] += starts[entry];
    }
    let mut next = starts.clone();
    let mut order = vec![0u32; indices.len()];
    for (token, &index) in indices.iter().enumerate() {
        order[next[index as usize] as usize] = token as u32;
        next[index as usize] += 1;
    }
    d_table.par_chunks_mut(hidden).enumerate().with_min_len(16).for_each(|(entry, d_row)| {
        if padding == Some(entry) {
            return;
        }
        let tokens = &order[starts[entry] as usize..starts[entry + 1] as usize];
        // Two levels keep the rounding error of an entry that many tokens share (a token type) small.
        for group in tokens.chunks(64) {
            if let [token] = group {
                add(d_row, *token);
                continue;
            }
            let mut partial = vec![T::ZERO; hidden];
            for &token in group {
                add(&mut partial, token);
            }
            add_assign(d_row, &partial);
        }
    });
}

/// `sum[i] += factor term[i]`.
fn add_scaled<T: Real>(sum: &mut [T], term: &[T], factor: T) {
    real::dispatch(
        #[inline(always)]
        || {
            for (sum, &term) in sum.iter_mut().zip(term) {
                *sum = factor.mul_add(term, *sum);
            }
        },
    );
}
