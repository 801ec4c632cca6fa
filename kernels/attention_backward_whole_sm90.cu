// Packed bidirectional attention, backward, for Hopper and sequences of at most 512 tokens: what attention_backward_sm90.cu computes with
// two launches and seven products, with one and five.
//
//   dV = (P o M)^T dO     dS = P o (M o (dO V^T) - D)     dQ = scale dS K     dK = scale dS^T Q
//   bias_sums = the sums over each sequence's rows of dQ and dV, and zeros for dK: the gradient of a bias in qkv, but for a sum over sequences
//
// A block takes one (sequence, head) after the other, whole. It goes through blocks of 128 keys, 64 a warpgroup, and for each of them through
// all queries, 64 at a time. Everything is the transposed, S^T = K Q^T and dP^T = V dO^T, so that P^T and dS^T go from the
// accumulators of one product into the A operand of the next, and dK and dV stay in registers. dQ sums over the blocks of keys: in
// between it lies in shared memory, in f32. No other block has a part in it, so nothing is added atomically, nobody waits for another block,
// and results repeat bit for bit.
//
// Floor: that of attention_backward.cu. Budgets, predictions and what else was thought of: notes/attention.md.
//
// Versions. No figure from a GPU has been seen yet.
//   1. The roles of attention_forward_sm90.cu. dQ of a tile needs dS of all 128 keys, so the warpgroups exchange dS through shared memory;
//      they take turns at multiplying it, every second tile each, while the exponentials of their next tile run. Keys and values are A
//      operands in registers: as operands in shared memory they would make reading it the limit.
//   2. Bias gradients. Prediction: 4 % more issue slots, for a pass that reads all of d_qkv again, 0.09 ms.

#include "common/attention_backward_sm90.cuh"
#include "common/reduce.cuh"
#include "common/stmatrix.cuh"

namespace {

constexpr int D = 64;
// A block of keys, a tile of queries, and the most of these that a sequence has.
constexpr int KEYS = ATTENTION_ROWS, QUERIES = 64, TILES = 512 / QUERIES;
constexpr int STAGES = 2;

struct alignas(1024) WholeShared {
    // dQ without the scale, as the lanes of the four warps hold it: 16 bytes a lane and access.
    float4 sums[TILES][4][D / 8][WARP];
    // Keys and values of two blocks: see keys_use.
    bf16 own[2][KEYS * D];
    bf16 queries[STAGES][QUERIES * D];
    bf16 d_output[STAGES][QUERIES * D];
    // dS of a tile, a row a key, swizzled. Warpgroup i multiplies d_scores[i].
    bf16 d_scores[ATTENTION_CONSUMERS][KEYS * QUERIES];
    float2 terms[STAGES][QUERIES];
    Ring<2> own_ring;
    Ring<STAGES> ring;
    Ring<ATTENTION_CONSUMERS> d_scores_ring;
};
// The table in src/device/attention_kernels.rs.
static_assert(sizeof(WholeShared) == 226 << 10, "shared memory of a block");

// Values are read once, keys until the last product of their block. So the keys of the next block follow the values into their place while
// this block is worked on, and its values follow the keys. `block` counts all blocks of keys that this block of threads has had.
__device__ __forceinline__ int keys_use(int block) { return 2 * block + block % 2; }
__device__ __forceinline__ int values_use(int block) { return 2 * block + 1 - block % 2; }

// Tiles of a head of KEYS and of QUERIES rows of [total_tokens, 3 hidden], QUERIES rows of [total_tokens, hidden], and 2 * QUERIES of the
// vector of row terms [heads * total_tokens * 2].
struct Maps {
    const TensorMap* own;
    const TensorMap* queries;
    const TensorMap* d_output;
    const TensorMap* terms;
};

__device__ __forceinline__ void produce(const Maps& maps, const int* cu_seqlens, const int* order, int pieces, int heads,
                                        int total_tokens, WholeShared& shared) {
    int blocks = 0, use = 0;
    for (AttentionRounds rounds; rounds.more(pieces); rounds.next()) {
        if (rounds.piece() >= pieces) continue;
        const AttentionHead head(cu_seqlens, order[rounds.piece() / heads], rounds.piece() % heads, heads, D);
        const int start = static_cast<int>(head.start), column = head.head * D;
        const auto load_own = [&](int own_use, int part, int row) {
            Mbarrier* full = begin_fill(shared.own_ring, own_use, KEYS * D * sizeof(bf16));
            load_head_tile<D, KEYS>(shared.own[Turn<2>(own_use).stage], maps.own, full, column + part * head.hidden, row);
        };
        for (int key = 0; key < head.length; key += KEYS, ++blocks) {
            load_own(keys_use(blocks), 1, start + key);
            for (int query = 0; query < head.length; query += QUERIES, ++use) {
                const int stage = Turn<STAGES>(use).stage, row = start + query;
                Mbarrier* full = begin_fill(shared.ring, use, 2 * QUERIES * D * sizeof(bf16) + QUERIES * sizeof(float2));
                load_head_tile<D, QUERIES>(shared.queries[stage], maps.queries, full, column, row);
                load_head_tile<D, QUERIES>(shared.d_output[stage], maps.d_output, full, column, row);
                tma_load(shared.terms[stage], maps.terms, full, {2 * (head.head * total_tokens + row)});
                // Where the last block's keys are, which are in use the longest: behind the first queries, which have a place earlier.
                if (query == 0) load_own(values_use(blocks), 2, start + key);
            }
        }
    }
}

// What a warp has summed of the columns of dQ and dV in a piece, without the factors that these are stored with; a lane has two columns of
// each, those of warp_column_sums.
struct BiasSums {
    float queries[2];
    float values[2];
};

// Adds a warp's 16 rows. Those behind the end of a sequence are zeros, as their probabilities are.
__device__ __forceinline__ void add_rows(float (&sums)[2], const float (&rows)[D / 2]) {
    float columns[D / 4];
#pragma unroll
    for (int i = 0; i < D / 4; ++i) columns[i] = rows[i / 2 * 4 + i % 2] + rows[i / 2 * 4 + 2 + i % 2];
    warp_column_sums(columns);
    sums[0] += columns[0], sums[1] += columns[1];
}

// Adds the warps' sums of a piece, in the order of the warps, and writes them to the head's columns of the sequence's `row`, behind each other for
// queries, keys and values. `shares` are [warps][2][D] floats.
__device__ __forceinline__ void write_bias_sums(float* row, int hidden, float* shares, const BiasSums& sums, float scale,
                                                float dropout_scale) {
    const int thread = threadIdx.x, part = thread / D, column = thread % D;
    float* share = shares + thread / WARP * (2 * D) + warp_sum_column();
    share[0] = sums.queries[0] * scale, share[1] = sums.queries[1] * scale;
    share[D] = sums.values[0] * dropout_scale, share[D + 1] = sums.values[1] * dropout_scale;
    named_barrier_sync(1, ATTENTION_CONSUMERS * WARPGROUP);
    if (part > 2) return;
    // A bias of keys has no gradient: a constant in all scores of a query changes no probability. dK would add up to rounding errors.
    float sum = 0.0f;
    if (part != 1)
#pragma unroll
        for (int warp = 0; warp < ATTENTION_CONSUMERS * WARPGROUP / WARP; ++warp) sum += shares[(2 * warp + part / 2) * D + column];
    row[part * hidden + column] = sum;
}

// A warp's 16 rows of keys or values as A operands.
__device__ __forceinline__ void load_fragments(unsigned (&fragments)[D / 16][4], const bf16* rows) {
    const int lane = threadIdx.x % WARP;
#pragma unroll
    for (int step = 0; step < D / 16; ++step) ldmatrix_x4(fragments[step], rows + swizzled<D>(lane % 16, step * 16 + lane / 16 * 8));
}

// products = the warpgroup's 64 rows times the queries' tile, transposed, as one group.
__device__ __forceinline__ void multiply_rows(float (&products)[QUERIES / 2], const unsigned (&rows)[D / 16][4], const bf16* queries) {
#pragma unroll
    for (int step = 0; step < D / 16; ++step)
        wgmma<QUERIES>(products, rows[step], k_major_step<D, QUERIES>(queries, step), step > 0);
    wgmma_commit();
}

// sums = a tile's dS times keys, plus sums if `accumulate`, as one group.
__device__ __forceinline__ void add_keys(float (&sums)[D / 2], const bf16* d_scores, const bf16* keys, bool accumulate) {
#pragma unroll
    for (int step = 0; step < KEYS / 16; ++step)
        wgmma<D, true, true>(sums, mn_major_step<QUERIES, KEYS>(d_scores, step), mn_major_step<D, KEYS>(keys, step),
                             accumulate || step > 0);
    wgmma_commit();
}

// Two lanes, one of them `distance` above the other, swap the first one's `odd` for the second one's `even`.
__device__ __forceinline__ void exchange(unsigned& even, unsigned& odd, int distance) {
    const bool second = threadIdx.x & distance;
    const unsigned other = __shfl_xor_sync(FULL_WARP, second ? even : odd, distance);
    (second ? even : odd) = other;
}

// Rounds a warp's 16 rows times `factor` and writes the first `valid` of them, 16 bytes a lane. There is no shared memory left to stage them in:
// the four lanes of a quad transpose four columns of chunks among themselves.
__device__ __forceinline__ void store_rows(bf16* to, int stride, int valid, const float (&rows)[D / 2], float factor) {
    const int lane = threadIdx.x % WARP, group = lane / 4, member = lane % 4;
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
        for (int part = 0; part < D / 32; ++part) {
            unsigned words[4];
#pragma unroll
            for (int n = 0; n < 4; ++n) {
                const int i = 16 * part + 4 * n + 2 * half;
                words[n] = pack_bf16(rows[i] * factor, rows[i + 1] * factor);
            }
            exchange(words[0], words[1], 1);
            exchange(words[2], words[3], 1);
            exchange(words[0], words[2], 2);
            exchange(words[1], words[3], 2);
            const int row = 8 * half + group;
            if (row < valid)
                *reinterpret_cast<uint4*>(to + static_cast<int64_t>(row) * stride + 32 * part + 8 * member) =
                    make_uint4(words[0], words[1], words[2], words[3]);
        }
}

__device__ __forceinline__ void consume(const int* cu_seqlens, const int* order, int pieces, int heads, float scale,
                                        const Dropout& dropout, bf16* d_qkv, float* bias_sums, WholeShared& shared) {
    const int lane = threadIdx.x % WARP, group = lane / 4;
    // The shuffle tells the compiler that it is the same for all lanes.
    const int warpgroup = __shfl_sync(FULL_WARP, static_cast<int>(threadIdx.x) / WARPGROUP, 0);
    const int warp_row = threadIdx.x / WARP * 16, warp_query = warp_row % 64;
    // Where a lane's row of the first matrices lies for stmatrix; those of the next 16 queries by an exclusive or.
    const int corner = warp_row * QUERIES + swizzled<QUERIES>(lane % 16, lane / 16 * 8);
    const float scale_log2 = scale * LOG2_E;
    int blocks = 0, use = 0;
    for (AttentionRounds rounds; rounds.more(pieces); rounds.next()) {
        if (rounds.piece() >= pieces) continue;
        const AttentionHead head(cu_seqlens, order[rounds.piece() / heads], rounds.piece() % heads, heads, D);
        BiasSums sums = {};
        const int stride = 3 * head.hidden, tiles = divide_up(head.length, QUERIES);
        for (int key = 0; key < head.length; key += KEYS, ++blocks) {
            const int row = key + warp_row;
            const bf16* own_keys = shared.own[Turn<2>(keys_use(blocks)).stage];
            unsigned keys[D / 16][4], values[D / 16][4];
            float d_keys[D / 2], d_values[D / 2];  // dK without the scale, dV without dropout's
            // Gradients of probabilities and scores; while a warpgroup has its turn, a tile's dQ.
            float scores[QUERIES / 2], d_scores[QUERIES / 2];
            unsigned packed[QUERIES / 16][4], d_packed[QUERIES / 16][4], keep[DRAWS<QUERIES>];
#pragma unroll
            for (int i = 0; i < D / 2; ++i) d_keys[i] = d_values[i] = 0.0f;

            // 16 rows from `first` on of the gradient of part 0, 1 or 2.
            const auto store = [&](int part, int first, const float(&rows)[D / 2], float factor) {
                bf16* to = d_qkv + static_cast<int64_t>(static_cast<int>(head.start) + first) * stride + (part * head.hidden + head.head * D);
                store_rows(to, stride, head.length - first, rows, factor);
            };
            // dQ of a tile so far. It was written before dS of a tile that this warpgroup has waited for since.
            const auto load_sum = [&](int tile) {
                if (key == 0) return;
#pragma unroll
                for (int i = 0; i < D / 8; ++i) {
                    const float4 four = shared.sums[tile][warp_query / 16][i][lane];
                    d_scores[4 * i] = four.x, d_scores[4 * i + 1] = four.y, d_scores[4 * i + 2] = four.z, d_scores[4 * i + 3] = four.w;
                }
            };
            const auto begin_sum = [&](int sum_use) {
                wait_full(shared.d_scores_ring, sum_use);
                wgmma_fence();
                add_keys(d_scores, shared.d_scores[warpgroup], own_keys, key > 0);
            };
            const auto end_sum = [&](int tile, int sum_use) {
                wgmma_wait<0>();
                wgmma_hold(d_scores);
                give_back(shared.d_scores_ring, sum_use);
                if (key + KEYS < head.length) {
#pragma unroll
                    for (int i = 0; i < D / 8; ++i)
                        shared.sums[tile][warp_query / 16][i][lane] =
                            make_float4(d_scores[4 * i], d_scores[4 * i + 1], d_scores[4 * i + 2], d_scores[4 * i + 3]);
                } else {
                    store(0, tile * QUERIES + warp_query, d_scores, scale);
                    if (bias_sums != nullptr) add_rows(sums.queries, d_scores);
                }
            };

            wait_full(shared.own_ring, keys_use(blocks));
            load_fragments(keys, own_keys + head_tile_row<D>(warp_row));
            wait_full(shared.own_ring, values_use(blocks));
            load_fragments(values, shared.own[Turn<2>(values_use(blocks)).stage] + head_tile_row<D>(warp_row));
            give_back(shared.own_ring, values_use(blocks));
            for (int tile = 0; tile < tiles; ++tile, ++use) {
                const int stage = Turn<STAGES>(use).stage;
                const bf16 *queries = shared.queries[stage], *d_output = shared.d_output[stage];
                const float2* terms = shared.terms[stage];
                // Whether the last tile's dQ is this warpgroup's.
                const bool has_turn = tile > 0 && (use - 1) % ATTENTION_CONSUMERS == warpgroup;
                wait_full(shared.ring, use);
                if (has_turn) load_sum(tile - 1);
                hold(keys);
                hold(values);
                wgmma_hold(scores);
                wgmma_hold(d_scores);
                wgmma_fence();
                multiply_rows(scores, keys, queries);
                if (has_turn) {
                    begin_sum(use - 1);
                } else {
                    wgmma_fence();
                    multiply_rows(d_scores, values, d_output);
                }
                draw<Rows::KEYS, QUERIES>(keep, dropout, head.draws, row / 16, tile * (QUERIES / 16));
                // The scores are there, and dK and dV of the tile before are done.
                wgmma_wait<1>();
                wgmma_hold(scores);
                wgmma_hold(d_keys);
                wgmma_hold(d_values);
                hold(packed);
                hold(d_packed);
                if (tile > 0) give_back(shared.ring, use - 1);
                exponentiate<false, QUERIES>(scores, {}, terms, head.length - tile * QUERIES, scale_log2);
                // Keys behind the end would add to dQ.
                if (key + KEYS > head.length) {
#pragma unroll
                    for (int i = 0; i < QUERIES / 2; ++i)
                        if (row + i / 2 % 2 * 8 + group >= head.length) scores[i] = 0.0f;
                }
                if (has_turn) {
                    end_sum(tile - 1, use - 1);
                    wgmma_hold(d_scores);
                    wgmma_fence();
                    multiply_rows(d_scores, values, d_output);
                }
                // Kept probabilities, without the dropout's scale.
                pack_accumulators<QUERIES>(packed, scores);
                drop<Rows::KEYS, QUERIES>(packed, keep, dropout);
                hold(packed);
                wgmma_hold(d_values);
                wgmma_fence();
                add_columns<D, QUERIES>(d_values, packed, d_output);
                wgmma_wait<1>();
                wgmma_hold(d_scores);
                differentiate<false, QUERIES>(d_scores, scores, {}, terms, keep, dropout.scale);
                pack_accumulators<QUERIES>(d_packed, d_scores);
                wait_empty(shared.d_scores_ring, use);
                const int first = use % ATTENTION_CONSUMERS * (KEYS * QUERIES) + corner;
#pragma unroll
                for (int step = 0; step < QUERIES / 16; ++step) stmatrix_x4(shared.d_scores[0] + (first ^ step * 16), d_packed[step]);
                hold(d_packed);
                wgmma_hold(d_keys);
                wgmma_fence();
                add_columns<D, QUERIES>(d_keys, d_packed, queries);
                fence_proxy_async();
                __syncwarp();
                if (lane == 0) mbarrier_arrive(&shared.d_scores_ring.full[use % ATTENTION_CONSUMERS]);
            }
            if ((use - 1) % ATTENTION_CONSUMERS == warpgroup) {
                load_sum(tiles - 1);
                wgmma_hold(d_scores);
                begin_sum(use - 1);
                end_sum(tiles - 1, use - 1);
            }
            wgmma_wait<0>();
            wgmma_hold(d_keys);
            wgmma_hold(d_values);
            hold(keys);
            hold(values);
            hold(packed);
            hold(d_packed);
            give_back(shared.ring, use - 1);
            give_back(shared.own_ring, keys_use(blocks));
            store(1, row, d_keys, scale);
            store(2, row, d_values, dropout.scale);
            if (bias_sums != nullptr) add_rows(sums.values, d_values);
        }
        // Into the place of the first tile's dQ, which all have read: who has had the last tile has had the stage that all gave back behind
        // that. Two places, since one warp may end a sequence of one tile while another still reads the sums of the one before.
        if (bias_sums != nullptr)
            write_bias_sums(bias_sums + static_cast<int64_t>(order[rounds.piece() / heads]) * stride + head.head * D, head.hidden,
                            reinterpret_cast<float*>(shared.sums[0][rounds.number() % 2]), sums, scale, dropout.scale);
    }
}

}  // namespace

// The maps are those of Maps, in tiles of 64 columns, swizzled by rows of 128 bytes. Sequences are of at most 512 tokens; their order is behind
// the plan's entries. bias_sums: [sequences, 3 hidden] f32, all of it written; or null. Grid: any number of blocks, at best one a
// multiprocessor; 384 threads; sizeof(WholeShared) bytes of shared memory.
extern "C" __global__ void __launch_bounds__(ATTENTION_SM90_THREADS, 1) attention_backward_whole_sm90_bf16_d64(
    const __grid_constant__ TensorMap own, const __grid_constant__ TensorMap queries, const __grid_constant__ TensorMap d_output,
    const __grid_constant__ TensorMap row_terms, const int* cu_seqlens, const AttentionBlock* plan, int entries, int pieces, int heads,
    int total_tokens, float scale, Dropout dropout, bf16* d_qkv, float* bias_sums) {
    follow_earlier_kernels();
    DYNAMIC_SHARED_ALIGNED(WholeShared, shared, 1024);
    const int* order = attention_order(plan, entries);
    if (threadIdx.x == 0) {
        ring_init(shared->own_ring);
        ring_init(shared->ring);
        ring_init(shared->d_scores_ring, ATTENTION_CONSUMERS * WARPGROUP / WARP, WARPGROUP / WARP);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (threadIdx.x < ATTENTION_CONSUMERS * WARPGROUP) {
        registers_increase<CONSUMER_REGISTERS>();
        consume(cu_seqlens, order, pieces, heads, scale, dropout, d_qkv, bias_sums, *shared);
    } else {
        registers_decrease<PRODUCER_REGISTERS>();
        if (threadIdx.x == ATTENTION_CONSUMERS * WARPGROUP)
            produce({&own, &queries, &d_output, &row_terms}, cu_seqlens, order, pieces, heads, total_tokens, *shared);
    }
}
EXPORT_KERNEL(attention_backward_whole_sm90_bf16_d64)
