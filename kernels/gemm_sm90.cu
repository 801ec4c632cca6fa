// Matrix products of a linear layer on Hopper: what gemm.cu computes, in bf16 with f32 sums, by wgmma from tiles that the copy
// engine (TMA) brings.
//
//   gemm_nt_sm90                 C = A B^T + bias                 A [m, k]  B [n, k]
//   gemm_nt_gelu_sm90            x = A B^T;  C = gelu(x + bias)   A [m, k]  B [n, k]
//   gemm_nn_sm90, _nn_add_sm90   C = A B,  C += A B               A [m, k]  B [k, n]
//   gemm_nn_gelu_gradient_sm90   C = (A B) gelu'(x + bias)        A [m, k]  B [k, n]   column_sums [m / 64, n] of C
//   gemm_tn_sm90                 partials of A^T B                A [k, m]  B [k, n]   f32, added to C by gemm_finish_sm90
//
// All matrices are row-major, described by tensor maps: addresses and rows are multiples of 16 bytes, sizes are any. A bias is
// [n] or null, never null beside GELU. What cannot be mapped goes to gemm.cu.
//
// A block stays on its multiprocessor and takes every gridDim.x-th piece of work: a tile of C, of both multiplying warpgroups together or, with
// GELU and its gradient, of one, in turn (common/gemm_sm90.cuh); and in gemm_tn_sm90 a part of k of one, all tiles of a part before the next part, so that the blocks at work read the same rows of A and B, once from memory and
// then from L2. In the others all tiles of a row come first: they share a panel of A, and a layer's weight (at most 4.7 MB)
// stays in L2. The parts are a function of the shape alone (src/device/gemm_plan.rs) and are added in order.
//
// Each has a second self, as in gemm_nt_cluster_sm90, which runs in clusters of two blocks: they have tiles below each other and share
// that of B, half of which each brings for both. The same bits; gemm_plan.rs says which shapes it is for.
//
// Floor on an H200, y = x W^T with 65,536 x 768 x 3072: 309 GFLOP, 0.388 ms at the 798 TFLOP/s that cuBLAS is known to reach there at 8192^3; 508 MB, 0.118 ms
// at the 4.3 TB/s of a copy. From L2 a tile of 128 x 256 needs 48 KB for each 4.2 MFLOP, 9.3 TB/s at that rate: more than L2 gives (some 6 to 7
// TB/s), so single blocks are predicted to stop at 550 to 600 TFLOP/s. In clusters of two it is 32 KB, 6.2 TB/s. No figure of these kernels
// from a GPU has been seen yet.
//
// Versions.
//   1. One warpgroup issues copies, two multiply 64 x 256 each; four stages; sums leave through shared memory and the copy
//      engine, while the next piece's first stages are on their way.
//   2. Clusters of two blocks, with multicast of B. For the copying thread's sake 40 and 232 registers instead of 24 and 240.
//   3. GELU in half the instructions, and a band's values before its buffer is waited for: notes/gemm.md, "GELU behind the sums".
//   4. GELU of x as it is kept: the same bits when it is computed again.
//   5. GELU and its gradient by turns, tile by tile; biases through shared memory; what C was is read while its products go on; pieces
//      are counted on, not divided for; a cluster's blocks wait for each other's last arrivals. notes/gemm.md, "Turns".
//   6. GELU by tanh in the same place: gemm_nt_gelu_tanh_sm90 and gemm_nn_gelu_tanh_gradient_sm90.

#include "common/gemm_sm90.cuh"

namespace {

// ---- copies ----

// Part of B's tile, for all blocks of the cluster.
template <int CLUSTER>
__device__ __forceinline__ void copy_b(const Operands& operands, bf16* tile, Mbarrier* full, const int (&at)[2]) {
    if constexpr (CLUSTER == 1)
        tma_load(tile, operands.b, full, at);
    else
        tma_multicast(tile, operands.b, full, at, (1 << CLUSTER) - 1);
}

// Of B a block of a pair brings a half, columns along k or rows of k, and gets the other from its neighbour.
template <Layout LAYOUT, typename TILES, int CLUSTER>
__device__ __forceinline__ void copy_stage(const Operands& operands, const Piece& piece, int rank, int k, bf16* stage, Mbarrier* full) {
    bf16* tile_b = stage + TILES::A_ELEMENTS;
    mbarrier_arrive_expect_tx(full, TILES::STAGE_BYTES);
    if (LAYOUT == Layout::TN) {
        for (int i = 0; i < TILE_M / WIDTH; ++i)
            tma_load(stage + i * WIDTH_ELEMENTS, operands.a, full, {piece.first_m + i * WIDTH, k});
    } else {
        tma_load(stage, operands.a, full, {k, piece.first_m});
    }
    if constexpr (LAYOUT == Layout::NT) {
        constexpr int COLUMNS = TILES::N / 2;
#pragma unroll
        for (int i = 0; i < 2 / CLUSTER; ++i)
            copy_b<CLUSTER>(operands, tile_b + (rank + i) * COLUMNS * TILE_K, full, {k, piece.first_n + (rank + i) * COLUMNS});
    } else {
        constexpr int ROWS = TILE_K / CLUSTER;
#pragma unroll
        for (int i = 0; i < TILES::N / WIDTH; ++i)
            copy_b<CLUSTER>(operands, tile_b + i * WIDTH_ELEMENTS + rank * ROWS * WIDTH, full, {piece.first_n + i * WIDTH, k + rank * ROWS});
    }
}

template <Layout LAYOUT, typename TILES, int CLUSTER>
__device__ __forceinline__ void produce(const GemmSm90& gemm, const Operands& operands, const Shared<TILES>& shared, int rank) {
    tma_prefetch(operands.a);
    tma_prefetch(operands.b);
    Place place;
    for (Walk<TILES, CLUSTER> walk(gemm, shared.barriers->digits); !walk.ended(); walk.next()) {
        const Piece piece = walk.piece(rank);
        for (int step = 0; step < piece.steps; ++step, ++place.step) {
            // Read by all blocks that this one copies to.
            mbarrier_wait(&shared.barriers->empty[place.stage()], place.parity() ^ 1);
            copy_stage<LAYOUT, TILES, CLUSTER>(operands, piece, rank, (piece.first_step + step) * TILE_K,
                                               shared.ring + place.stage() * TILES::STAGE_ELEMENTS, &shared.barriers->full[place.stage()]);
        }
    }
    // What the neighbour's warps say of their last stages arrives here, perhaps behind the last cluster_sync, which orders no such arrival: this
    // block stays until all have.
    if (CLUSTER > 1) {
        for (int stage = 0; stage < STAGES; ++stage, ++place.step)
            mbarrier_wait(&shared.barriers->empty[place.stage()], place.parity() ^ 1);
    }
}

// ---- products ----

// A consumer's operands in a stage. A k of 16 is 32 bytes on in rows along k, and 16 rows on in the others.
template <Layout LAYOUT, typename TILES>
__device__ __forceinline__ void multiply_stage(const bf16* stage, int group, float (&sums)[TILES::HALVES][TILES::SUMS], bool accumulate) {
    constexpr bool A_ALONG_M = LAYOUT == Layout::TN, B_ALONG_N = LAYOUT != Layout::NT;
    constexpr unsigned EIGHT_ROWS = 8 * 128;
    const int first = TILES::IN_TURN ? 0 : group;
    const uint64_t a = wgmma_descriptor(stage + first * GROUP_M * TILE_K, Swizzle::rows_128, WIDTH_ELEMENTS * sizeof(bf16), EIGHT_ROWS);
    const uint64_t b = wgmma_descriptor(stage + TILES::A_ELEMENTS, Swizzle::rows_128, WIDTH_ELEMENTS * sizeof(bf16), EIGHT_ROWS);
#pragma unroll
    for (int k = 0; k < TILE_K / 16; ++k) {
#pragma unroll
        for (int half = 0; half < TILES::HALVES; ++half)
            wgmma<TILES::N, A_ALONG_M, B_ALONG_N>(
                sums[half], wgmma_step(a, half * GROUP_M * TILE_K * sizeof(bf16) + k * (A_ALONG_M ? 2 * EIGHT_ROWS : 32)),
                wgmma_step(b, k * (B_ALONG_N ? 2 * EIGHT_ROWS : 32)), accumulate || k > 0);
    }
}
static_assert(GROUP_M == WIDTH, "64 rows of A along m are a tile of those that the copies write");

// A warp says that it is through with a stage, to every block that copies into it; the four of a warpgroup run apart a little.
template <int CLUSTER>
__device__ __forceinline__ void give_back(Mbarrier* empty) {
    const int lane = static_cast<int>(threadIdx.x) % WARP;
    if (CLUSTER == 1) {
        if (lane == 0) mbarrier_arrive(empty);
    } else if (lane < CLUSTER) {
        mbarrier_arrive_in(empty, lane);
    }
}

// `go_on` is called once, behind the third step's products if there are as many.
template <Layout LAYOUT, typename TILES, int CLUSTER, typename GoOn>
__device__ __forceinline__ void multiply(int steps, int group, const Shared<TILES>& shared, Place& place,
                                         float (&sums)[TILES::HALVES][TILES::SUMS], const GoOn& go_on) {
    for (int step = 0; step < steps; ++step, ++place.step) {
        mbarrier_wait(&shared.barriers->full[place.stage()], place.parity());
        wgmma_fence();
        multiply_stage<LAYOUT, TILES>(shared.ring + place.stage() * TILES::STAGE_ELEMENTS, group, sums, step > 0);
        wgmma_commit();
        if (TILES::IN_TURN && step == steps - 1 && threadIdx.x % WARP == 0) mbarrier_arrive(&shared.barriers->of[1 - group].turn);
        if (step == min(2, steps - 1)) go_on();
        // The products of the stage before are done; those of this one go on while the next is waited for.
        wgmma_wait<1>();
        if (step > 0) give_back<CLUSTER>(&shared.barriers->empty[place.stage_before()]);
    }
    wgmma_wait<0>();
#pragma unroll
    for (int half = 0; half < TILES::HALVES; ++half) wgmma_hold(sums[half]);
    give_back<CLUSTER>(&shared.barriers->empty[place.stage_before()]);
}

// ---- sums ----

// Where four sums of a thread wait for gemm_finish_sm90, in float4: thread by thread, so that a warp writes 512 bytes.
constexpr int PART_SUMS = Tiles<Epilogue::PARTIALS>::SUMS;
__device__ __forceinline__ int64_t waiting(int part, int tiles, int tile, int group, int four, int thread) {
    return ((static_cast<int64_t>(part) * tiles + tile) * CONSUMERS + group) * (PART_SUMS / 4 * WARPGROUP) + four * WARPGROUP + thread;
}

__device__ __forceinline__ void write_partials(const GemmSm90& gemm, const Piece& piece, int group, float* partials,
                                               const float (&sums)[PART_SUMS]) {
    const int tiles = divide_up(gemm.m, TILE_M) * divide_up(gemm.n, Tiles<Epilogue::PARTIALS>::N);
    float4* to = reinterpret_cast<float4*>(partials) +
                 waiting(piece.part, tiles, piece.tile, group, 0, static_cast<int>(threadIdx.x) % WARPGROUP);
#pragma unroll
    for (int four = 0; four < PART_SUMS / 4; ++four)
        to[four * WARPGROUP] = make_float4(sums[4 * four], sums[4 * four + 1], sums[4 * four + 2], sums[4 * four + 3]);
}

template <Layout LAYOUT, Epilogue EPILOGUE, template <typename> class FORM, int CLUSTER>
__device__ __forceinline__ void consume(const GemmSm90& gemm, const Operands& operands, const Shared<Tiles<EPILOGUE>>& shared, int group,
                                        int rank) {
    using T = Tiles<EPILOGUE>;
    // Two warpgroups in turn: the steps of the other's tile pass by. One begins when the other has seen its last stage full, and so every stage before:
    // the parity of a stage's phase says no more than that it is this one or the last but one.
    Walk<T, CLUSTER> walk(gemm, shared.barriers->digits);
    Place place;
    const auto pass = [&] {
        place.step += walk.piece(rank).steps;
        walk.next();
    };
    if (T::IN_TURN && group == 1) pass();
    float sums[T::HALVES][T::SUMS];
    if constexpr (EPILOGUE == Epilogue::PARTIALS) {
        for (; !walk.ended(); walk.next()) {
            const Piece piece = walk.piece(rank);
            multiply<LAYOUT, T, CLUSTER>(piece.steps, group, shared, place, sums, [] {});
            if (piece.first_m < gemm.m) write_partials(gemm, piece, group, operands.partials, sums[0]);
        }
    } else {
        Exit<EPILOGUE, FORM> exit(gemm, operands, shared, group);
        while (!walk.ended()) {
            const Piece piece = walk.piece(rank);
            const bool there = piece.first_m < gemm.m;
            if (there) exit.begin(piece);
            if (T::IN_TURN) exit.wait_for_turn();
            multiply<LAYOUT, T, CLUSTER>(piece.steps, group, shared, place, sums, [&] {
                if (there) exit.go_on(piece);
            });
            if (there) exit.write(piece, sums);
            walk.next();
            if (T::IN_TURN) pass();
        }
        // Shared memory must outlive the stores that read it.
        if (exit.leads()) bulk_wait_read<0>();
    }
}

template <Layout LAYOUT, Epilogue EPILOGUE, template <typename> class FORM, int CLUSTER>
__device__ __forceinline__ void gemm_sm90(const GemmSm90& gemm, const Operands& operands, unsigned char* memory) {
    using T = Tiles<EPILOGUE>;
    const Shared<T> shared(memory);
    const int rank = CLUSTER == 1 ? 0 : cluster_rank();
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < STAGES; ++stage) {
            mbarrier_init(&shared.barriers->full[stage], 1);
            mbarrier_init(&shared.barriers->empty[stage], CLUSTER * T::READERS);
        }
        for (int group = 0; group < CONSUMERS; ++group) {
            for (int buffer = 0; buffer < 3; ++buffer) mbarrier_init(&shared.barriers->of[group].band[buffer], 1);
            mbarrier_init(&shared.barriers->of[group].turn, WARPGROUP / WARP);
        }
        shared.barriers->digits = Walk<T, CLUSTER>::stride(gemm);
        mbarrier_init_fence();
    }
    __syncthreads();
    if (CLUSTER > 1) cluster_sync();
    const int warpgroup = static_cast<int>(threadIdx.x) / WARPGROUP;
    if (warpgroup == CONSUMERS) {
        registers_decrease<T::PRODUCER_REGISTERS>();
        if (threadIdx.x % WARPGROUP == 0) produce<LAYOUT, T, CLUSTER>(gemm, operands, shared, rank);
    } else {
        registers_increase<T::CONSUMER_REGISTERS>();
        consume<LAYOUT, EPILOGUE, FORM, CLUSTER>(gemm, operands, shared, warpgroup, rank);
    }
    // The neighbour still arrives at barriers here.
    if (CLUSTER > 1) cluster_sync();
}

}  // namespace

// One block a multiprocessor, at most one for each piece; of NAME_cluster_sm90 at most two for each pair of pieces. OPERANDS are
// made of the parameters that follow them.
#define GEMM_SM90(NAME, DTYPE, LAYOUT, EPILOGUE, OPERANDS, ...) GEMM_GELU_SM90(NAME, DTYPE, LAYOUT, EPILOGUE, GeluExact, OPERANDS, __VA_ARGS__)
#define GEMM_GELU_SM90(NAME, DTYPE, LAYOUT, EPILOGUE, FORM, OPERANDS, ...)                                      \
    GEMM_SM90_KERNEL(NAME##_sm90_##DTYPE, , 1, LAYOUT, EPILOGUE, FORM, OPERANDS, __VA_ARGS__)                   \
    GEMM_SM90_KERNEL(NAME##_cluster_sm90_##DTYPE, __cluster_dims__(2, 1, 1), 2, LAYOUT, EPILOGUE, FORM, OPERANDS, __VA_ARGS__)
#define GEMM_SM90_KERNEL(NAME, DIMS, CLUSTER, LAYOUT, EPILOGUE, FORM, OPERANDS, ...)                            \
    extern "C" __global__ void DIMS __launch_bounds__(THREADS, 1) NAME(                                         \
        GemmSm90 gemm, const __grid_constant__ TensorMap a, const __grid_constant__ TensorMap b, __VA_ARGS__) { \
        follow_earlier_kernels();                                                                               \
        DYNAMIC_SHARED_ALIGNED(unsigned char, memory, 1024);                                                    \
        const Operands operands OPERANDS;                                                                       \
        gemm_sm90<Layout::LAYOUT, Epilogue::EPILOGUE, FORM, CLUSTER>(gemm, operands, memory);                         \
    }                                                                                                           \
    EXPORT_KERNEL(NAME)

#define TO_C ({&a, &b, &c, nullptr, nullptr, nullptr, nullptr})
#define TO_C_WITH_BIAS ({&a, &b, &c, nullptr, bias, nullptr, nullptr})
#define TO_C_AND_X ({&a, &b, &c, &x, bias, nullptr, nullptr})
#define TO_C_FROM_X ({&a, &b, &c, &x, bias, column_sums, nullptr})
#define TO_PARTIALS ({&a, &b, nullptr, nullptr, nullptr, nullptr, partials})

GEMM_SM90(gemm_nt, bf16, NT, STORE, TO_C_WITH_BIAS, const __grid_constant__ TensorMap c, const bf16* bias)
GEMM_GELU_SM90(gemm_nt_gelu, bf16, NT, GELU, GeluExact, TO_C_AND_X, const __grid_constant__ TensorMap c,
               const __grid_constant__ TensorMap x, const bf16* bias)
GEMM_GELU_SM90(gemm_nt_gelu_tanh, bf16, NT, GELU, GeluTanh, TO_C_AND_X, const __grid_constant__ TensorMap c,
               const __grid_constant__ TensorMap x, const bf16* bias)
GEMM_SM90(gemm_nn, bf16, NN, STORE, TO_C, const __grid_constant__ TensorMap c)
GEMM_SM90(gemm_nn_add, bf16, NN, ADD, TO_C, const __grid_constant__ TensorMap c)
GEMM_GELU_SM90(gemm_nn_gelu_gradient, bf16, NN, GELU_GRADIENT, GeluExact, TO_C_FROM_X, const __grid_constant__ TensorMap c,
               const __grid_constant__ TensorMap x, const bf16* bias, float* column_sums)
GEMM_GELU_SM90(gemm_nn_gelu_tanh_gradient, bf16, NN, GELU_GRADIENT, GeluTanh, TO_C_FROM_X, const __grid_constant__ TensorMap c,
               const __grid_constant__ TensorMap x, const bf16* bias, float* column_sums)
GEMM_SM90(gemm_tn, bf16_f32, TN, PARTIALS, TO_PARTIALS, float* partials)

// gemm_finish_sm90_f32: C += the parts of gemm_tn_sm90, in order. gridDim.x = tiles, gridDim.y = 16: the eighths of each
// consumer's sums. Blocks of 128 threads. C [m, n] with ldc elements from row to row. Where rows of C are whole pairs, a warp's access is
// eight sectors of 32 bytes.
extern "C" __global__ void __launch_bounds__(WARPGROUP)
    gemm_finish_sm90_f32(GemmSm90 gemm, const float* partials, float* c, int64_t ldc) {
    follow_earlier_kernels();
    constexpr int N = Tiles<Epilogue::PARTIALS>::N;
    const int columns = divide_up(gemm.n, N);
    const int group = blockIdx.y / 8, thread = threadIdx.x;
    const int row = blockIdx.x / columns * TILE_M + group * GROUP_M + thread / WARP * 16 + thread % WARP / 4;
    const bool pairs = ldc % 2 == 0 && reinterpret_cast<uintptr_t>(c) % sizeof(float2) == 0;
#pragma unroll 1
    for (int i = 0; i < 4; ++i) {
        const int four = blockIdx.y % 8 * 4 + i;
        float4 sums = {};
        for (int part = 0; part < gemm.parts; ++part) {
            const float4 values =
                reinterpret_cast<const float4*>(partials)[waiting(part, gridDim.x, blockIdx.x, group, four, thread)];
            sums.x += values.x, sums.y += values.y, sums.z += values.z, sums.w += values.w;
        }
        const int column = blockIdx.x % columns * N + four * 8 + thread % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; ++half) {
            const float2 sum = half == 0 ? make_float2(sums.x, sums.y) : make_float2(sums.z, sums.w);
            float* to = c + (row + half * 8) * ldc + column;
            if (row + half * 8 >= gemm.m || column >= gemm.n) continue;
            if (pairs && column + 1 < gemm.n) {
                const float2 old = *reinterpret_cast<const float2*>(to);
                *reinterpret_cast<float2*>(to) = make_float2(old.x + sum.x, old.y + sum.y);
            } else {
                to[0] += sum.x;
                if (column + 1 < gemm.n) to[1] += sum.y;
            }
        }
    }
}
EXPORT_KERNEL(gemm_finish_sm90_f32)
