// What the backward attention kernels for Hopper share: probabilities from scores, gradients of scores from those of probabilities, both
// in the accumulators of a warpgroup's products, and the products that follow.
#pragma once

#include "common/attention_sm90.cuh"

// Whether element `i` of a thread's products is kept.
template <bool OF_QUERIES, int WORDS>
__device__ __forceinline__ bool kept(const unsigned (&keep)[WORDS], int i) {
    constexpr Rows ROWS = OF_QUERIES ? Rows::QUERIES : Rows::KEYS;
    return keep[i / 32] >> (i % 32 / 8 * 8 + decision_bit<ROWS>(i / 4 % 2, i / 2 % 2, i % 2)) & 1;
}

// Scores become probabilities; the sequence has `valid` more columns. Terms are the thread's own rows', or of the columns.
template <bool OF_QUERIES, int COLUMNS>
__device__ __forceinline__ void exponentiate(float (&scores)[COLUMNS / 2], const float2 (&row_terms)[2], const float2* column_terms,
                                             int valid, float scale_log2) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; ++i) {
        const int column = i / 4 * 8 + 2 * member + i % 2;
        const float log_sum_exp = OF_QUERIES ? row_terms[i / 2 % 2].x : column_terms[column].x;
        scores[i] = exp2_approximate(fmaf(scores[i], scale_log2, -log_sum_exp));
    }
    // Only the last tile has columns that are not there; exp2 of their scores may be infinite.
    if (valid < COLUMNS) {
#pragma unroll
        for (int i = 0; i < COLUMNS / 2; ++i)
            if (i / 4 * 8 + 2 * member + i % 2 >= valid) scores[i] = 0.0f;
    }
}

// dS from P and dP, in the place of dP.
template <bool OF_QUERIES, int COLUMNS, int WORDS>
__device__ __forceinline__ void differentiate(float (&d_probabilities)[COLUMNS / 2], const float (&probabilities)[COLUMNS / 2],
                                              const float2 (&row_terms)[2], const float2* column_terms, const unsigned (&keep)[WORDS],
                                              float dropout_scale) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < COLUMNS / 2; ++i) {
        const float row_sum = OF_QUERIES ? row_terms[i / 2 % 2].y : column_terms[i / 4 * 8 + 2 * member + i % 2].y;
        const float d_kept = fmaf(d_probabilities[i], dropout_scale, -row_sum);
        d_probabilities[i] = probabilities[i] * (kept<OF_QUERIES>(keep, i) ? d_kept : -row_sum);
    }
}

// sums += a (64 x COLUMNS, in registers) times the columns' tile as it lies, as one group.
template <int D, int COLUMNS>
__device__ __forceinline__ void add_columns(float (&sums)[D / 2], const unsigned (&a)[COLUMNS / 16][4], uint64_t columns) {
#pragma unroll
    for (int step = 0; step < COLUMNS / 16; ++step)
        wgmma<D, true>(sums, a[step], mn_major_step<D>(columns, step), true);
    wgmma_commit();
}
