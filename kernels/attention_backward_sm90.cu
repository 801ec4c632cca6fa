// Packed bidirectional attention, backward, for Hopper: what attention_backward.cu computes, behind the same attention_row_terms and
// with the same plan, through TMA, mbarriers and wgmma.
//
//   dV = (P o M)^T dO     dS = P o (M o (dO V^T) - D)     dQ = scale dS K     dK = scale dS^T Q
//
// Two launches, attention_backward_queries_sm90 (dQ) and attention_backward_keys_sm90 (dK, dV), in any order: no two blocks write
// the same element, so nothing is added atomically and results repeat bit for bit, at any length. The price is 7 products where 5
// would do: attention_backward_whole_sm90.cu does, for sequences of at most 512 tokens.
//
// A block owns 128 rows, 64 a warpgroup, and streams the columns: rows are queries and columns keys for dQ, and the other way
// round for dK and dV. There everything is the transposed, S^T = K Q^T and dP^T = V dO^T, so that P^T and dS^T go from the
// accumulators of one product into the A operand of the next.
//
// Floor: that of attention_backward.cu.
//
// Versions. No figure from a GPU has been seen yet.
//   1. The block stays and takes one piece of work after the other; a producer warpgroup runs ahead of two consumers, as in
//      attention_forward_sm90.cu. The exponentials run while the tensor cores multiply the gradients of the probabilities, and the
//      last products of a tile while those of the next begin.

#include "common/attention_backward_sm90.cuh"

namespace {

// COLUMNS divides 512. Registers of a thread, of 240: scores and their gradients COLUMNS, both packed COLUMNS / 2 for keys and half of that
// for queries, sums D for keys and D / 2 for queries.
template <int D>
struct QueriesTile {
    static constexpr int COLUMNS = D == 128 ? 64 : 128, STAGES = 2;
};
template <int D>
struct KeysTile {
    static constexpr int COLUMNS = D == 128 ? 32 : 64, STAGES = 4;
};

// `first` is queries or keys (what scores are made of), `second` gradients of the output or values.
template <int D, typename Tile, bool WITH_TERMS>
struct alignas(1024) BackwardShared {
    static constexpr int COLUMNS = Tile::COLUMNS, STAGES = Tile::STAGES;
    bf16 own_first[ATTENTION_ROWS * D];
    bf16 own_second[ATTENTION_ROWS * D];
    bf16 first[STAGES][COLUMNS * D];
    bf16 second[STAGES][COLUMNS * D];
    bf16 staging[ATTENTION_ROWS * D];
    float2 terms[WITH_TERMS ? STAGES : 1][WITH_TERMS ? COLUMNS : 16];  // of the queries, where they are columns
    Ring<1> own_ring;
    Ring<STAGES> ring;
};
template <int D>
using QueriesShared = BackwardShared<D, QueriesTile<D>, false>;
template <int D>
using KeysShared = BackwardShared<D, KeysTile<D>, true>;

// The table in src/device/attention_kernels.rs.
static_assert(sizeof(QueriesShared<32>) == 57 << 10 && sizeof(QueriesShared<64>) == 113 << 10 && sizeof(QueriesShared<128>) == 161 << 10,
              "shared memory of a block");
static_assert(sizeof(KeysShared<32>) == 59 << 10 && sizeof(KeysShared<64>) == 115 << 10 && sizeof(KeysShared<128>) == 162 << 10,
              "shared memory of a block");

// The maps that a kernel reads: [total_tokens, 3 hidden] and [total_tokens, hidden] in tiles of ROWS or COLUMNS rows of a head, and
// row_terms as [heads * total_tokens * 2] f32 in tiles of 2 * COLUMNS.
struct Maps {
    const TensorMap* own_qkv;
    const TensorMap* own_d_output;
    const TensorMap* qkv;
    const TensorMap* d_output;
    const TensorMap* terms;
};

template <int D, bool OF_QUERIES, typename Shared>
__device__ __forceinline__ void produce(const Maps& maps, const int* cu_seqlens, const AttentionBlock* plan, int entries, int heads,
                                        int total_tokens, Shared& shared) {
    constexpr int COLUMNS = Shared::COLUMNS, STAGES = Shared::STAGES;
    int pieces = 0, use = 0;
    for (AttentionRounds rounds; rounds.more(entries * heads); rounds.next()) {
        const AttentionWork work(plan, entries, heads, rounds);
        if (work.block.sequence < 0) continue;
        const AttentionHead head(cu_seqlens, work.block.sequence, work.head, heads, D);
        const int start = static_cast<int>(head.start), own_row = start + work.block.first_row;
        const int queries = work.head * D, keys = queries + head.hidden, values = keys + head.hidden;
        Mbarrier* full = begin_fill(shared.own_ring, pieces++, 2 * ATTENTION_ROWS * D * sizeof(bf16));
        load_head_tile<D, ATTENTION_ROWS>(shared.own_first, maps.own_qkv, full, OF_QUERIES ? queries : keys, own_row);
        if (OF_QUERIES) load_head_tile<D, ATTENTION_ROWS>(shared.own_second, maps.own_d_output, full, queries, own_row);
        else load_head_tile<D, ATTENTION_ROWS>(shared.own_second, maps.own_qkv, full, values, own_row);
        for (int column = 0; column < head.length; column += COLUMNS, ++use) {
            const int stage = Turn<STAGES>(use).stage;
            constexpr int BYTES = 2 * COLUMNS * D * sizeof(bf16) + (OF_QUERIES ? 0 : COLUMNS * sizeof(float2));
            full = begin_fill(shared.ring, use, BYTES);
            load_head_tile<D, COLUMNS>(shared.first[stage], maps.qkv, full, OF_QUERIES ? keys : queries, start + column);
            if (OF_QUERIES) {
                load_head_tile<D, COLUMNS>(shared.second[stage], maps.qkv, full, values, start + column);
            } else {
                load_head_tile<D, COLUMNS>(shared.second[stage], maps.d_output, full, queries, start + column);
                tma_load(shared.terms[stage], maps.terms, full, {2 * (work.head * total_tokens + start + column)});
            }
        }
    }
}

// products = 64 rows of `rows` times the columns' tile, transposed, as one group.
template <int D, int COLUMNS>
__device__ __forceinline__ void multiply_rows(float (&products)[COLUMNS / 2], const bf16* rows, const bf16* columns) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
        wgmma<COLUMNS>(products, k_major_step<D, ATTENTION_ROWS>(rows, step), k_major_step<D, COLUMNS>(columns, step), step > 0);
    wgmma_commit();
}

template <int D, bool OF_QUERIES, typename Shared>
__device__ __forceinline__ void consume(const float2* row_terms, const int* cu_seqlens, const AttentionBlock* plan, int entries,
                                        int heads, int total_tokens, float scale, const Dropout& dropout, bf16* d_qkv,
                                        Shared& shared) {
    constexpr int COLUMNS = Shared::COLUMNS, STAGES = Shared::STAGES;
    const int group = threadIdx.x % WARP / 4;
    const int own_offset = head_tile_row<D>(threadIdx.x / WARPGROUP * 64), warp_row = threadIdx.x / WARP * 16;
    const bf16 *own_first = shared.own_first + own_offset, *own_second = shared.own_second + own_offset;
    const float scale_log2 = scale * LOG2_E;
    int pieces = 0, use = 0;
    for (AttentionRounds rounds; rounds.more(entries * heads); rounds.next()) {
        const AttentionWork work(plan, entries, heads, rounds);
        if (work.block.sequence < 0) continue;
        const AttentionHead head(cu_seqlens, work.block.sequence, work.head, heads, D);
        const int row = work.block.first_row + warp_row;
        float2 own_terms[2];
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const int query = row + 8 * half + group;
            own_terms[half] = OF_QUERIES && query < head.length
                                  ? row_terms[work.head * static_cast<int64_t>(total_tokens) + head.start + query]
                                  : make_float2(0.0f, 0.0f);
        }
        float d_first[D / 2];                    // dQ or dK, without the scale
        float d_second[OF_QUERIES ? 2 : D / 2];  // dV
        float scores[COLUMNS / 2], d_scores[COLUMNS / 2];
        unsigned packed[OF_QUERIES ? 1 : COLUMNS / 16][4], d_packed[COLUMNS / 16][4], keep[DRAWS<COLUMNS>];
#pragma unroll
        for (int i = 0; i < D / 2; ++i) d_first[i] = 0.0f;
        if constexpr (!OF_QUERIES) {
#pragma unroll
            for (int i = 0; i < D / 2; ++i) d_second[i] = 0.0f;
        }

        wait_full(shared.own_ring, pieces);
        const int tiles = divide_up(head.length, COLUMNS);
        for (int tile = 0; tile < tiles; ++tile, ++use) {
            const int stage = Turn<STAGES>(use).stage;
            const bf16 *first = shared.first[stage], *second = shared.second[stage];
            const float2* terms = shared.terms[OF_QUERIES ? 0 : stage];
            wait_full(shared.ring, use);
            wgmma_hold(scores);
            wgmma_hold(d_scores);
            wgmma_fence();
            multiply_rows<D, COLUMNS>(scores, own_first, first);
            multiply_rows<D, COLUMNS>(d_scores, own_second, second);
            draw<OF_QUERIES ? Rows::QUERIES : Rows::KEYS, COLUMNS>(keep, dropout, head.draws, row / 16, tile * (COLUMNS / 16));
            // The scores are there, and the sums of the tile before are done.
            wgmma_wait<1>();
            wgmma_hold(scores);
            wgmma_hold(d_first);
            hold(d_packed);
            if constexpr (!OF_QUERIES) {
                wgmma_hold(d_second);
                hold(packed);
            }
            if (tile > 0) give_back(shared.ring, use - 1);
            exponentiate<OF_QUERIES, COLUMNS>(scores, own_terms, terms, head.length - tile * COLUMNS, scale_log2);
            if constexpr (!OF_QUERIES) {
                // Kept probabilities, without the dropout's scale.
                pack_accumulators<COLUMNS>(packed, scores);
                drop<Rows::KEYS, COLUMNS>(packed, keep, dropout);
                hold(packed);
                wgmma_hold(d_second);
                wgmma_fence();
                add_columns<D, COLUMNS>(d_second, packed, second);
                wgmma_wait<1>();
            } else {
                wgmma_wait<0>();
            }
            wgmma_hold(d_scores);
            differentiate<OF_QUERIES, COLUMNS>(d_scores, scores, own_terms, terms, keep, dropout.scale);
            pack_accumulators<COLUMNS>(d_packed, d_scores);
            hold(d_packed);
            wgmma_hold(d_first);
            wgmma_fence();
            add_columns<D, COLUMNS>(d_first, d_packed, first);
        }
        wgmma_wait<0>();
        wgmma_hold(d_first);
        hold(d_packed);
        if constexpr (!OF_QUERIES) {
            wgmma_hold(d_second);
            hold(packed);
        }
        give_back(shared.ring, use - 1);
        give_back(shared.own_ring, pieces++);

        const int stride = 3 * head.hidden;
        const int64_t first_element = static_cast<int64_t>(row) * stride;
        bf16* staging = shared.staging + warp_row * D;
        store_warp_rows<D>(d_qkv + head.part(OF_QUERIES ? 0 : 1) + first_element, stride, head.length - row, staging, d_first,
                           {scale, scale});
        if constexpr (!OF_QUERIES)
            store_warp_rows<D>(d_qkv + head.part(2) + first_element, stride, head.length - row, staging, d_second,
                               {dropout.scale, dropout.scale});
    }
}

template <int D, bool OF_QUERIES, typename Shared>
__device__ __forceinline__ void backward_sm90(const Maps& maps, const float* row_terms, const int* cu_seqlens,
                                              const AttentionBlock* plan, int entries, int heads, int total_tokens, float scale,
                                              const Dropout& dropout, bf16* d_qkv, Shared& shared) {
    if (threadIdx.x == 0) {
        ring_init(shared.own_ring);
        ring_init(shared.ring);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < ATTENTION_CONSUMERS * WARPGROUP) {
        registers_increase<CONSUMER_REGISTERS>();
        consume<D, OF_QUERIES>(reinterpret_cast<const float2*>(row_terms), cu_seqlens, plan, entries, heads, total_tokens, scale,
                               dropout, d_qkv, shared);
    } else {
        registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == ATTENTION_CONSUMERS * WARPGROUP)
            produce<D, OF_QUERIES>(maps, cu_seqlens, plan, entries, heads, total_tokens, shared);
    }
}

}  // namespace

// attention_backward_queries_sm90_bf16_dD and attention_backward_keys_sm90_bf16_dD. The maps are of the matrices qkv [total_tokens, 3 hidden] and
// d_output [total_tokens, hidden] in tiles of min(D, 64) columns, swizzled by rows: own_* of 128 rows, the others of COLUMNS (queries: 128, and
// 64 for D = 128; keys: 64); and of row_terms as a vector in tiles of 128. Grid: any number of blocks, at best one a multiprocessor; 384
// threads; sizeof(QueriesShared<D>) or sizeof(KeysShared<D>) bytes of shared memory.
#define ATTENTION_BACKWARD_QUERIES_SM90(D)                                                                                  \
    extern "C" __global__ void __launch_bounds__(ATTENTION_SM90_THREADS, 1) attention_backward_queries_sm90_bf16_d##D(      \
        const __grid_constant__ TensorMap own_qkv, const __grid_constant__ TensorMap own_d_output,                          \
        const __grid_constant__ TensorMap qkv, const float* row_terms, const int* cu_seqlens, const AttentionBlock* plan,   \
        int entries, int heads, int total_tokens, float scale, Dropout dropout, bf16* d_qkv) {                              \
        follow_earlier_kernels();                                                                                           \
        DYNAMIC_SHARED_ALIGNED(QueriesShared<D>, shared, 1024);                                                             \
        const Maps maps = {&own_qkv, &own_d_output, &qkv, nullptr, nullptr};                                                \
        backward_sm90<D, true>(maps, row_terms, cu_seqlens, plan, entries, heads, total_tokens, scale, dropout, d_qkv,      \
                               *shared);                                                                                    \
    }                                                                                                                       \
    EXPORT_KERNEL(attention_backward_queries_sm90_bf16_d##D)

#define ATTENTION_BACKWARD_KEYS_SM90(D)                                                                                     \
    extern "C" __global__ void __launch_bounds__(ATTENTION_SM90_THREADS, 1) attention_backward_keys_sm90_bf16_d##D(         \
        const __grid_constant__ TensorMap own_qkv, const __grid_constant__ TensorMap qkv,                                   \
        const __grid_constant__ TensorMap d_output, const __grid_constant__ TensorMap row_terms, const int* cu_seqlens,     \
        const AttentionBlock* plan, int entries, int heads, int total_tokens, float scale, Dropout dropout, bf16* d_qkv) {  \
        follow_earlier_kernels();                                                                                           \
        DYNAMIC_SHARED_ALIGNED(KeysShared<D>, shared, 1024);                                                                \
        const Maps maps = {&own_qkv, nullptr, &qkv, &d_output, &row_terms};                                                 \
        backward_sm90<D, false>(maps, nullptr, cu_seqlens, plan, entries, heads, total_tokens, scale, dropout, d_qkv,       \
                                *shared);                                                                                   \
    }                                                                                                                       \
    EXPORT_KERNEL(attention_backward_keys_sm90_bf16_d##D)

ATTENTION_BACKWARD_QUERIES_SM90(32)
ATTENTION_BACKWARD_QUERIES_SM90(64)
ATTENTION_BACKWARD_QUERIES_SM90(128)
ATTENTION_BACKWARD_KEYS_SM90(32)
ATTENTION_BACKWARD_KEYS_SM90(64)
ATTENTION_BACKWARD_KEYS_SM90(128)
