// Packed bidirectional attention, forward, for Hopper: what attention_forward.cu computes, with the same plan, the same dropout
// decisions and the same log_sum_exp, through TMA, mbarriers and wgmma.
//
// Floor: that of attention_forward.cu. Budgets and predictions: notes/attention.md.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A block stays on its multiprocessor and takes one (128 queries, head) after the other. One thread of a producer warpgroup copies
//      queries, keys and values into a ring; it runs ahead, also into the next piece of work. Two consumer warpgroups have 64 queries
//      each: scores and output in registers, probabilities go from the accumulators of the first product into the A operand
//      of the second, and the softmax of one tile of keys runs while the tensor cores multiply the probabilities of the last.
//   2. The two warpgroups take turns in issuing products, as FlashAttention-3's do (Shah et al., arXiv 2407.08608, 3.1): the products of
//      one stand in the tensor cores' queue while the other computes exponentials, instead of both waiting for both.
//   3. Between the softmax and the wait for the output stands a wait for the values, which is over before it begins: ptxas had moved
//      the softmax behind the output's wait, and moves nothing over a branch (notes/attention.md).

#include "common/attention.cuh"
#include "common/attention_sm90.cuh"

namespace {

// KEYS divides 512, so that a sequence of 512 has no tail. Scores of 128 keys are 64 registers beside 32 of probabilities and D / 2 of
// output. Stages: all the keys of 512 tokens in flight where they fit in shared memory.
template <int D>
struct ForwardTile {
    static constexpr int KEYS = 128;
    static constexpr int STAGES = D == 128 ? 2 : 4;
};

template <int D>
struct alignas(1024) ForwardShared {
    static constexpr int KEYS = ForwardTile<D>::KEYS, STAGES = ForwardTile<D>::STAGES;
    bf16 queries[ATTENTION_ROWS * D];
    bf16 keys[STAGES][KEYS * D];
    bf16 values[STAGES][KEYS * D];
    bf16 output[ATTENTION_ROWS * D];
    Ring<1> queries_ring;
    Ring<STAGES> keys_ring;
    Ring<STAGES> values_ring;
};

// The table in src/device/attention_kernels.rs.
static_assert(sizeof(ForwardShared<32>) == 81 << 10 && sizeof(ForwardShared<64>) == 161 << 10 && sizeof(ForwardShared<128>) == 193 << 10,
              "shared memory of a block");

// Begins to fill the next stage with ROWS rows of the head's columns that begin at `column`.
template <int D, int ROWS, int STAGES>
__device__ __forceinline__ void fill(Ring<STAGES>& ring, int use, bf16* tiles, const TensorMap* map, int column, int row) {
    Mbarrier* full = begin_fill(ring, use, ROWS * D * sizeof(bf16));
    load_head_tile<D, ROWS>(tiles + Turn<STAGES>(use).stage * ROWS * D, map, full, column, row);
}

template <int D>
__device__ __forceinline__ void produce(const TensorMap* qkv, const int* cu_seqlens, const AttentionBlock* plan, int entries,
                                        int heads, ForwardShared<D>& shared) {
    constexpr int KEYS = ForwardTile<D>::KEYS;
    int pieces = 0, tile_uses = 0;
    for (AttentionRounds rounds; rounds.more(entries * heads); rounds.next()) {
        const AttentionWork work(plan, entries, heads, rounds);
        if (work.block.sequence < 0) continue;
        const AttentionHead head(cu_seqlens, work.block.sequence, work.head, heads, D);
        const int row = static_cast<int>(head.start), column = work.head * D;
        fill<D, ATTENTION_ROWS>(shared.queries_ring, pieces++, shared.queries, qkv, column, row + work.block.first_row);
        for (int key = 0; key < head.length; key += KEYS) {
            fill<D, KEYS>(shared.keys_ring, tile_uses, shared.keys[0], qkv, column + head.hidden, row + key);
            fill<D, KEYS>(shared.values_ring, tile_uses, shared.values[0], qkv, column + 2 * head.hidden, row + key);
            ++tile_uses;
        }
    }
}

// What a thread keeps of its two rows, `group` and `group + 8` of its warp's sixteen.
struct RowState {
    float max[2];  // of the raw scores
    float sum[2];  // this lane's part, relative to max
};

// Scores of keys that the sequence does not have become -infinity.
template <int KEYS>
__device__ __forceinline__ void mask_tail(float (&scores)[KEYS / 2], int valid) {
    const int member = threadIdx.x % 4;
#pragma unroll
    for (int i = 0; i < KEYS / 2; ++i)
        if (i / 4 * 8 + 2 * member + i % 2 >= valid) scores[i] = -INFINITY;
}

// Turns the scores into exp(scale (score - max)); `factors` bring what was relative to the old maximum to the new one.
template <int KEYS>
__device__ __forceinline__ void online_softmax(float (&scores)[KEYS / 2], RowState& rows, float scale_log2, float (&factors)[2]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        float max = rows.max[half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n) max = fmaxf(max, fmaxf(scores[4 * n + 2 * half], scores[4 * n + 2 * half + 1]));
        // The four lanes of a quad hold one row.
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 1));
        max = fmaxf(max, __shfl_xor_sync(FULL_WARP, max, 2));
        // Every tile has a key, so max is finite; in the first tile the old one is -infinity and the factor 0.
        factors[half] = exp2_approximate((rows.max[half] - max) * scale_log2);
        const float shift = max * scale_log2;
        float sum = rows.sum[half] * factors[half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; ++n)
#pragma unroll
            for (int i = 4 * n + 2 * half; i < 4 * n + 2 * half + 2; ++i) {
                scores[i] = exp2_approximate(fmaf(scores[i], scale_log2, -shift));
                sum += scores[i];
            }
        rows.max[half] = max;
        rows.sum[half] = sum;
    }
}

// scores = queries keys^T, as one group.
template <int D, int KEYS>
__device__ __forceinline__ void multiply_keys(float (&scores)[KEYS / 2], const bf16* queries, const bf16* keys) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
        wgmma<KEYS>(scores, k_major_step<D, ATTENTION_ROWS>(queries, step), k_major_step<D, KEYS>(keys, step), step > 0);
    wgmma_commit();
}

// output += probabilities values, as one group.
template <int D, int KEYS>
__device__ __forceinline__ void multiply_values(float (&output)[D / 2], const unsigned (&probabilities)[KEYS / 16][4],
                                                const bf16* values) {
#pragma unroll
    for (int step = 0; step < KEYS / 16; ++step)
        wgmma<D, true>(output, probabilities[step], mn_major_step<D, KEYS>(values, step), true);
    wgmma_commit();
}

// Whose turn it is to issue products: a barrier for each of the two warpgroups, at which it waits until the other has passed the turn on.
// Both have as many turns. NOT seen by the emulator: whether it is faster; a turn that nobody passes on is a deadlock there too.
struct Turns {
    static constexpr int BARRIER = 1, THREADS = ATTENTION_CONSUMERS * WARPGROUP;
    const int warpgroup = threadIdx.x / WARPGROUP;

    // The first turn is the first warpgroup's.
    __device__ __forceinline__ Turns() {
        if (warpgroup == 1) pass();
    }
    __device__ __forceinline__ void take() const { named_barrier_sync(BARRIER + warpgroup, THREADS); }
    __device__ __forceinline__ void pass() const { named_barrier_arrive(BARRIER + 1 - warpgroup, THREADS); }
    // What was passed last finds somebody, so that no barrier is left half full.
    __device__ __forceinline__ void end() const {
        if (warpgroup == 0) take();
    }
};

template <int D>
__device__ __forceinline__ void consume(const int* cu_seqlens, const AttentionBlock* plan, int entries, int heads, float scale,
                                        const Dropout& dropout, bf16* output_rows, float* log_sum_exp, ForwardShared<D>& shared) {
    constexpr int KEYS = ForwardTile<D>::KEYS;
    const int lane = threadIdx.x % WARP, group = lane / 4;
    const int warpgroup_row = threadIdx.x / WARPGROUP * 64, warp_row = threadIdx.x / WARP * 16;
    const float scale_log2 = scale * LOG2_E;
    const bf16* queries = shared.queries + head_tile_row<D>(warpgroup_row);
    const Turns turns;
    int pieces = 0, use = 0;
    for (AttentionRounds rounds; rounds.more(entries * heads); rounds.next()) {
        const AttentionWork work(plan, entries, heads, rounds);
        if (work.block.sequence < 0) continue;
        const AttentionHead head(cu_seqlens, work.block.sequence, work.head, heads, D);
        const int tiles = divide_up(head.length, KEYS);
        const int row = work.block.first_row + warp_row, query_tile = row / 16;

        float scores[KEYS / 2], output[D / 2], factors[2];
        unsigned probabilities[KEYS / 16][4], keep[DRAWS<KEYS>];
        RowState rows = {{-INFINITY, -INFINITY}, {0.0f, 0.0f}};
#pragma unroll
        for (int i = 0; i < D / 2; ++i) output[i] = 0.0f;

        wait_full(shared.queries_ring, pieces);
        wait_full(shared.keys_ring, use);
        wgmma_hold(scores);
        wgmma_fence();
        multiply_keys<D, KEYS>(scores, queries, shared.keys[Turn<ForwardTile<D>::STAGES>(use).stage]);
        draw<Rows::QUERIES, KEYS>(keep, dropout, head.draws, query_tile, 0);
        wgmma_wait<0>();
        wgmma_hold(scores);
        give_back(shared.keys_ring, use);
        if (tiles == 1) {
            give_back(shared.queries_ring, pieces);
            mask_tail<KEYS>(scores, head.length);
        }
        online_softmax<KEYS>(scores, rows, scale_log2, factors);
        pack_accumulators<KEYS>(probabilities, scores);
        drop<Rows::QUERIES, KEYS>(probabilities, keep, dropout);

        for (int tile = 1; tile < tiles; ++tile) {
            // The scores of this tile, and behind them the output of the last, which runs on during this softmax.
            wait_full(shared.keys_ring, use + 1);
            wait_full(shared.values_ring, use);
            turns.take();
            wgmma_hold(scores);
            wgmma_hold(output);
            hold(probabilities);
            wgmma_fence();
            multiply_keys<D, KEYS>(scores, queries, shared.keys[Turn<ForwardTile<D>::STAGES>(use + 1).stage]);
            multiply_values<D, KEYS>(output, probabilities, shared.values[Turn<ForwardTile<D>::STAGES>(use).stage]);
            turns.pass();
            draw<Rows::QUERIES, KEYS>(keep, dropout, head.draws, query_tile, tile * (KEYS / 16));
            wgmma_wait<1>();
            wgmma_hold(scores);
            give_back(shared.keys_ring, use + 1);
            if (tile + 1 == tiles) {
                give_back(shared.queries_ring, pieces);
                mask_tail<KEYS>(scores, head.length - tile * KEYS);
            }
            online_softmax<KEYS>(scores, rows, scale_log2, factors);
            // ptxas moves a wait for products up to the last branch before it, and so in front of all that softmax. Here is a branch: the
            // values were there before their product was issued, and are given back below.
            wait_full(shared.values_ring, use);
            wgmma_wait<0>();
            wgmma_hold(output);
            hold(probabilities);
            give_back(shared.values_ring, use);
            ++use;
#pragma unroll
            for (int i = 0; i < D / 2; ++i) output[i] *= factors[i / 2 % 2];
            pack_accumulators<KEYS>(probabilities, scores);
            drop<Rows::QUERIES, KEYS>(probabilities, keep, dropout);
        }
        wait_full(shared.values_ring, use);
        wgmma_hold(output);
        hold(probabilities);
        wgmma_fence();
        multiply_values<D, KEYS>(output, probabilities, shared.values[Turn<ForwardTile<D>::STAGES>(use).stage]);
        wgmma_wait<0>();
        wgmma_hold(output);
        hold(probabilities);
        give_back(shared.values_ring, use);
        ++use;
        ++pieces;

#pragma unroll
        for (int half = 0; half < 2; ++half) {
            float sum = rows.sum[half];
            sum += __shfl_xor_sync(FULL_WARP, sum, 1);
            sum += __shfl_xor_sync(FULL_WARP, sum, 2);
            factors[half] = dropout.scale / sum;
            const int query = row + 8 * half + group;
            if (lane % 4 == 0 && query < head.length)
                log_sum_exp[(head.start + query) * heads + work.head] = fmaf(rows.max[half], scale, logf(sum));
        }
        store_warp_rows<D>(output_rows + head.output() + row * static_cast<int64_t>(head.hidden), head.hidden, head.length - row,
                           shared.output + warp_row * D, output, factors);
    }
    turns.end();
}

template <int D>
__device__ __forceinline__ void forward_sm90(const TensorMap* qkv, const int* cu_seqlens, const AttentionBlock* plan, int entries,
                                             int heads, float scale, const Dropout& dropout, bf16* output, float* log_sum_exp,
                                             ForwardShared<D>& shared) {
    if (threadIdx.x == 0) {
        tma_prefetch(qkv);
        ring_init(shared.queries_ring);
        ring_init(shared.keys_ring);
        ring_init(shared.values_ring);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < ATTENTION_CONSUMERS * WARPGROUP) {
        registers_increase<CONSUMER_REGISTERS>();
        consume<D>(cu_seqlens, plan, entries, heads, scale, dropout, output, log_sum_exp, shared);
    } else {
        registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == ATTENTION_CONSUMERS * WARPGROUP) produce<D>(qkv, cu_seqlens, plan, entries, heads, shared);
    }
}

}  // namespace

// attention_forward_sm90_bf16_dD. `qkv`: the matrix [total_tokens, 3 hidden] in tiles of 128 rows and min(D, 64) columns, swizzled by rows.
// Grid: any number of blocks, at best one a multiprocessor; 384 threads; sizeof(ForwardShared<D>) bytes of shared memory (81, 161 and
// 193 KB for D = 32, 64, 128).
#define ATTENTION_FORWARD_SM90(D)                                                                                            \
    extern "C" __global__ void __launch_bounds__(ATTENTION_SM90_THREADS, 1) attention_forward_sm90_bf16_d##D(                       \
        const __grid_constant__ TensorMap qkv, const int* cu_seqlens, const AttentionBlock* plan, int entries, int heads,    \
        float scale, Dropout dropout, bf16* output, float* log_sum_exp) {                                                    \
        follow_earlier_kernels();                                                                                            \
        DYNAMIC_SHARED_ALIGNED(ForwardShared<D>, shared, 1024);                                                              \
        forward_sm90<D>(&qkv, cu_seqlens, plan, entries, heads, scale, dropout, output, log_sum_exp, *shared);               \
    }                                                                                                                        \
    EXPORT_KERNEL(attention_forward_sm90_bf16_d##D)

ATTENTION_FORWARD_SM90(32)
ATTENTION_FORWARD_SM90(64)
ATTENTION_FORWARD_SM90(128)
