// Blocks of a cluster that meet, count into each other's mbarriers and load for each other; right, and wrong on purpose. Only for
// the emulator: a GPU would need wrappers with PTX around these calls.
#include "cuda_on_cpu.h"

using namespace cuda_on_cpu;

struct alignas(64) TensorMap {
    unsigned long long words[16];
};

// out[block] = 16 * the cluster's size + rank.
__device__ void write_place(int* out) {
    if (threadIdx.x == 0) out[blockIdx.y * gridDim.x + blockIdx.x] = static_cast<int>(16 * cluster_size() + cluster_rank());
}
extern "C" __global__ void __cluster_dims__(2, 2) cluster_places(int* out) { write_place(out); }
EXPORT_KERNEL(cluster_places)
extern "C" __global__ void no_cluster_places(int* out) { write_place(out); }
EXPORT_KERNEL(no_cluster_places)
extern "C" __global__ void __cluster_dims__(3, 3) cluster_too_large(int* out) { write_place(out); }
EXPORT_KERNEL(cluster_too_large)

// Every thread but the first three of each block, which return, adds to `before`, meets the others `rounds` times, and finds in `after`
// how many had added.
extern "C" __global__ void __cluster_dims__(4) cluster_meet(int* before, int* after, int rounds) {
    if (threadIdx.x < 3) return;
    for (int round = 0; round < rounds; round++) {
        atomicAdd(&before[round], 1);
        cluster_arrive();
        if (threadIdx.x % 2) __nanosleep(1);
        cluster_wait();
        after[(round * gridDim.x + blockIdx.x) * blockDim.x + threadIdx.x] = before[round];
    }
}
EXPORT_KERNEL(cluster_meet)

extern "C" __global__ void __cluster_dims__(2) cluster_arrives_twice() {
    cluster_arrive();
    cluster_arrive();
}
EXPORT_KERNEL(cluster_arrives_twice)

extern "C" __global__ void __cluster_dims__(2) cluster_waits_only() { cluster_wait(); }
EXPORT_KERNEL(cluster_waits_only)

extern "C" __global__ void __cluster_dims__(2) cluster_waits_for_one() {
    if (threadIdx.x == 7 && cluster_rank() == 1)
        for (;;) cluster_arrive(), cluster_wait();
    __shared__ unsigned long long never;
    if (threadIdx.x == 0) mbarrier_init(&never, 1);
    __syncthreads();
    mbarrier_wait(&never, 0);
}
EXPORT_KERNEL(cluster_waits_for_one)

enum Mistake {
    RIGHT,
    NO_BARRIER_BEFORE,
    NO_BARRIER_BEHIND,
    OWN_READER_ONLY,
    SILENT_READER,
    WRONG_BYTES,
    BLOCK_THAT_IS_NOT_THERE,
    ARRIVES_IN_NO_BLOCK,
    NO_SHARED_MEMORY,
    LEAVES_EARLY,
    DOES_NOT_DRAIN,
};

// Two blocks read the same `rounds` tiles of 16 rows of 8 floats: each loads half a tile for both, when both have read the last one.
template <Mistake mistake>
__device__ void share_tiles(const TensorMap* x, float* out, int rounds) {
    DYNAMIC_SHARED_ALIGNED(float, tile, 128);
    __shared__ unsigned long long full, empty;
    const unsigned rank = cluster_rank();
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_init(&empty, mistake == OWN_READER_ONLY ? 1 : 2);
    }
    __syncthreads();
    if (mistake != NO_BARRIER_BEFORE) cluster_arrive(), cluster_wait();
    if (mistake == LEAVES_EARLY && rank == 1) return;
    if (threadIdx.x == 0) {
        for (int round = 0; round < rounds; round++) {
            mbarrier_wait(&empty, round % 2 ^ 1);
            mbarrier_arrive_expect_tx(&full, mistake == WRONG_BYTES ? 256 : 512);
            float* half = mistake == NO_SHARED_MEMORY ? out : tile + 64 * rank;
            const int at[2] = {0, 16 * round + 8 * static_cast<int>(rank)};
            tensor_multicast(half, x, &full, at, mistake == BLOCK_THAT_IS_NOT_THERE ? 5 : 3);
        }
        if (mistake != DOES_NOT_DRAIN && mistake != NO_BARRIER_BEHIND) mbarrier_wait(&empty, rounds % 2 ^ 1);
    } else if (threadIdx.x == 32) {
        for (int round = 0; round < rounds; round++) {
            mbarrier_wait(&full, round % 2);
            for (int i = 0; i < 128; i++) {
                if (i % 64 == 0) __nanosleep(1);
                out[(blockIdx.x * rounds + round) * 128 + i] = tile[i];
            }
            if (mistake != SILENT_READER || rank == 0) mbarrier_arrive_in(&empty, rank);
            if (mistake != OWN_READER_ONLY) mbarrier_arrive_in(&empty, mistake == ARRIVES_IN_NO_BLOCK ? 2 : 1 - rank);
        }
    }
    if (mistake != NO_BARRIER_BEHIND) cluster_arrive(), cluster_wait();
}

#define SHARE_TILES(name, ...)                                                                                           \
    extern "C" __global__ void __cluster_dims__(2, 1, 1) name(const __grid_constant__ TensorMap x, float* out, int rounds) { \
        share_tiles<__VA_ARGS__>(&x, out, rounds);                                                                       \
    }                                                                                                                    \
    EXPORT_KERNEL(name)
SHARE_TILES(share_tiles_right, RIGHT)
SHARE_TILES(share_tiles_no_barrier_before, NO_BARRIER_BEFORE)
SHARE_TILES(share_tiles_no_barrier_behind, NO_BARRIER_BEHIND)
SHARE_TILES(share_tiles_own_reader_only, OWN_READER_ONLY)
SHARE_TILES(share_tiles_silent_reader, SILENT_READER)
SHARE_TILES(share_tiles_wrong_bytes, WRONG_BYTES)
SHARE_TILES(share_tiles_block_that_is_not_there, BLOCK_THAT_IS_NOT_THERE)
SHARE_TILES(share_tiles_arrives_in_no_block, ARRIVES_IN_NO_BLOCK)
SHARE_TILES(share_tiles_no_shared_memory, NO_SHARED_MEMORY)
SHARE_TILES(share_tiles_leaves_early, LEAVES_EARLY)
SHARE_TILES(share_tiles_does_not_drain, DOES_NOT_DRAIN)

// A block alone loads for two.
extern "C" __global__ void share_tiles_alone(const __grid_constant__ TensorMap x, float* out, int rounds) {
    share_tiles<RIGHT>(&x, out, rounds);
}
EXPORT_KERNEL(share_tiles_alone)
