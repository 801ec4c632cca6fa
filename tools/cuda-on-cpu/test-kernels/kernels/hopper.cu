// Bulk tensor copies, mbarriers and warpgroup products as one chain, right and wrong on purpose. Only for the emulator: a GPU
// would need wrappers with PTX around these calls.
#include "cuda_on_cpu.h"
#include <cuda_bf16.h>

using namespace cuda_on_cpu;

struct alignas(64) TensorMap {
    unsigned long long words[16];
};

// OVERLAPPED is right, too: a tile is given back one turn later.
enum Mistake { RIGHT, OVERLAPPED, NO_PRODUCT_WAIT, WRONG_STRIDE, WRONG_SWIZZLE, WRONG_BYTES, NO_EMPTY_WAIT, NO_FENCE, THREE_WARPS, EARLY_READ, NO_TILE_WAIT };

__device__ unsigned long long descriptor(const void* tile, unsigned swizzle, unsigned leading, unsigned stride) {
    return (__cvta_generic_to_shared(tile) & 0x3ffff) >> 4 | static_cast<unsigned long long>(leading >> 4) << 16 |
           static_cast<unsigned long long>(stride >> 4) << 32 | static_cast<unsigned long long>(swizzle) << 62;
}

// The number of a swizzle in a descriptor, by the elements of a row; 8 elements are none.
constexpr unsigned swizzle_of(int width) { return width == 64 ? 1 : width == 32 ? 2 : width == 16 ? 3 : 0; }

// An operand in shared memory: ROWS of M or N by 64 of K, in boxes of WIDTH elements along K (K-major) or along M, N.
template <int ROWS, int WIDTH, bool K_MAJOR>
struct Operand {
    static constexpr int DEPTH = 64;
    static constexpr int BOXES = (K_MAJOR ? DEPTH : ROWS) / WIDTH;
    static constexpr int BOX_BYTES = (K_MAJOR ? ROWS : DEPTH) * WIDTH * 2;
    static constexpr int BYTES = ROWS * DEPTH * 2;

    static __device__ void load(char* tile, const TensorMap* map, unsigned long long* full, int row, int k) {
        for (int box = 0; box < BOXES; box++) {
            const int at[2] = {K_MAJOR ? k + box * WIDTH : row + box * WIDTH, K_MAJOR ? row : k};
            tensor_load(tile + box * BOX_BYTES, map, full, at);
        }
    }

    static __device__ unsigned long long step(const char* tile, int step, Mistake mistake) {
        const unsigned swizzle = mistake == WRONG_SWIZZLE ? 0 : swizzle_of(WIDTH);
        const unsigned eight = 8 * WIDTH * 2 * (mistake == WRONG_STRIDE ? 2 : 1);
        if (K_MAJOR) {
            const char* start = tile + step * 16 / WIDTH * BOX_BYTES + step * 16 % WIDTH * 2;
            return descriptor(start, swizzle, BOX_BYTES, eight);
        }
        const char* start = tile + 16 * step * WIDTH * 2;
        return WIDTH == 8 ? descriptor(start, swizzle, eight, BOX_BYTES) : descriptor(start, swizzle, BOX_BYTES, eight);
    }
};

// C[M, N] = A B with 64 x COLUMNS tiles: four warps that multiply, and one that copies into a ring of two stages.
template <int COLUMNS, int WIDTH, bool K_MAJOR_A, bool K_MAJOR_B, Mistake mistake = RIGHT>
__device__ void gemm(const TensorMap* map_a, const TensorMap* map_b, float* c, int m, int n, int k) {
    using A = Operand<64, WIDTH, K_MAJOR_A>;
    using B = Operand<COLUMNS, WIDTH, K_MAJOR_B>;
    DYNAMIC_SHARED_ALIGNED(char, shared, 1024);
    __shared__ unsigned long long full[2], empty[2];
    if (threadIdx.x == 0) {
        for (int stage = 0; stage < 2; stage++) mbarrier_init(&full[stage], 1), mbarrier_init(&empty[stage], 128);
    }
    __syncthreads();
    const int row = blockIdx.y * 64, column = blockIdx.x * COLUMNS, tiles = (k + 63) / 64;
    if (threadIdx.x >= 128) {
        setmaxnreg_dec(24);
        if (threadIdx.x != 128) return;
        for (int tile = 0; tile < tiles; tile++) {
            const int stage = tile % 2;
            char* to = shared + stage * (A::BYTES + B::BYTES);
            if (mistake != NO_EMPTY_WAIT) mbarrier_wait(&empty[stage], tile / 2 % 2 ^ 1);
            mbarrier_arrive_expect_tx(&full[stage], A::BYTES + B::BYTES + (mistake == WRONG_BYTES ? 16 : 0));
            A::load(to, map_a, &full[stage], row, tile * 64);
            B::load(to + A::BYTES, map_b, &full[stage], column, tile * 64);
        }
        return;
    }
    setmaxnreg_inc(240);
    float sums[COLUMNS / 2];
    for (int tile = 0; tile < tiles; tile++) {
        const int stage = tile % 2;
        const char* from = shared + stage * (A::BYTES + B::BYTES);
        if (mistake != NO_TILE_WAIT) mbarrier_wait(&full[stage], tile / 2 % 2);
        if (mistake != NO_FENCE) wgmma_fence();
        for (int step = 0; step < 4; step++) {
            if (mistake == THREE_WARPS && threadIdx.x / 32 == 2) continue;
            wgmma_m64k16_bf16<COLUMNS, !K_MAJOR_A, !K_MAJOR_B>(sums, A::step(from, step, mistake), B::step(from + A::BYTES, step, RIGHT),
                                                               tile + step > 0);
        }
        wgmma_commit();
        if (mistake == EARLY_READ) c[threadIdx.x] = sums[0];
        if (mistake == OVERLAPPED || mistake == NO_PRODUCT_WAIT) wgmma_wait<1>();
        else wgmma_wait<0>();
        if (mistake != OVERLAPPED) mbarrier_arrive(&empty[stage]);
        else if (tile > 0) mbarrier_arrive(&empty[1 - stage]);
    }
    wgmma_wait<0>();
    if (mistake == EARLY_READ) return;
    for (int i = 0; i < COLUMNS / 2; i++) {
        const int r = row + threadIdx.x / 32 * 16 + threadIdx.x % 32 / 4 + i / 2 % 2 * 8;
        const int q = column + i / 4 * 8 + threadIdx.x % 4 * 2 + i % 2;
        if (r < m && q < n) c[size_t(r) * n + q] = sums[i];
    }
}

#define GEMM(name, ...)                                                                                             \
    extern "C" __global__ void __launch_bounds__(256, 1) name(const __grid_constant__ TensorMap a,                  \
                                                              const __grid_constant__ TensorMap b, float* c, int m, \
                                                              int n, int k) {                                       \
        gemm<__VA_ARGS__>(&a, &b, c, m, n, k);                                                                      \
    }                                                                                                               \
    EXPORT_KERNEL(name)

GEMM(hopper_128_kk, 64, 64, true, true)
GEMM(hopper_128_km, 128, 64, true, false)
GEMM(hopper_128_mk, 64, 64, false, true)
GEMM(hopper_128_mm, 64, 64, false, false)
GEMM(hopper_64_kk, 32, 32, true, true)
GEMM(hopper_64_mm, 96, 32, false, false)
GEMM(hopper_32_kk, 64, 16, true, true)
GEMM(hopper_32_mm, 16, 16, false, false)
GEMM(hopper_0_kk, 24, 8, true, true)
GEMM(hopper_0_mm, 8, 8, false, false)
GEMM(hopper_overlapped, 64, 64, true, true, OVERLAPPED)
GEMM(hopper_no_product_wait, 64, 64, true, true, NO_PRODUCT_WAIT)
GEMM(hopper_wrong_stride, 64, 64, true, true, WRONG_STRIDE)
GEMM(hopper_wrong_swizzle, 64, 64, true, true, WRONG_SWIZZLE)
GEMM(hopper_wrong_bytes, 64, 64, true, true, WRONG_BYTES)
GEMM(hopper_no_empty_wait, 64, 64, true, true, NO_EMPTY_WAIT)
GEMM(hopper_no_fence, 64, 64, true, true, NO_FENCE)
GEMM(hopper_three_warps, 64, 64, true, true, THREE_WARPS)
GEMM(hopper_early_read, 64, 64, true, true, EARLY_READ)
GEMM(hopper_no_tile_wait, 64, 64, true, true, NO_TILE_WAIT)

// C[64, 256] = A[64, 16] B[256, 16]^T with A from registers, in two products on the same accumulators: the second adds.
extern "C" __global__ void hopper_registers(const unsigned* a, const __grid_constant__ TensorMap b, float* c) {
    DYNAMIC_SHARED_ALIGNED(char, shared, 1024);
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) mbarrier_init(&full, 1);
    __syncthreads();
    if (threadIdx.x == 0) {
        mbarrier_arrive_expect_tx(&full, 256 * 32);
        tensor_load(shared, &b, &full, {0, 0});
    }
    mbarrier_wait(&full, 0);
    unsigned fragment[4];
    for (int i = 0; i < 4; i++) fragment[i] = a[threadIdx.x * 4 + i];
    float sums[128];
    wgmma_fence();
    wgmma_m64k16_bf16<256, false>(sums, fragment, descriptor(shared, 3, 0, 256), false);
    wgmma_commit();
    wgmma_m64k16_bf16<256, false>(sums, fragment, descriptor(shared, 3, 0, 256), true);
    wgmma_commit();
    wgmma_wait<0>();
    for (int i = 0; i < 128; i++) c[threadIdx.x * 128 + i] = sums[i];
}
EXPORT_KERNEL(hopper_registers)

// Copies one tile in, hands out its bytes as they lie, and copies it to another tensor.
template <int RANK>
__device__ void copy_tile(const TensorMap* from, const TensorMap* to, const int* at, int bytes, float* tile_out, bool wait) {
    DYNAMIC_SHARED_ALIGNED(float, tile, 1024);
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        int place[RANK];
        for (int i = 0; i < RANK; i++) place[i] = at[i];
        mbarrier_arrive_expect_tx(&full, bytes);
        tensor_load(tile, from, &full, place);
        mbarrier_wait(&full, 0);
        for (int i = 0; i < bytes / 4; i++) tile_out[i] = tile[i];
        tensor_store(to, tile, place);
        bulk_commit();
        if (wait) bulk_wait<0>();
    }
}
#define COPY_TILE(rank)                                                                                                     \
    extern "C" __global__ void copy_tile_##rank##d(const __grid_constant__ TensorMap from, const __grid_constant__ TensorMap to, \
                                                   const int* at, int bytes, float* tile_out, int wait) {                   \
        copy_tile<rank>(&from, &to, at, bytes, tile_out, wait);                                                             \
    }                                                                                                                       \
    EXPORT_KERNEL(copy_tile_##rank##d)
COPY_TILE(1)
COPY_TILE(2)
COPY_TILE(3)
COPY_TILE(4)
COPY_TILE(5)

// y = x, `bytes` bytes, by way of shared memory from byte `offset` on.
extern "C" __global__ void bulk_copy(const char* x, char* y, int bytes, int offset) {
    DYNAMIC_SHARED(char, tile);
    __shared__ unsigned long long full;
    if (threadIdx.x == 0) {
        mbarrier_init(&full, 1);
        mbarrier_arrive_expect_tx(&full, bytes);
        bulk_load(tile + offset, x, bytes, &full);
        mbarrier_wait(&full, 0);
        bulk_store(y, tile + offset, bytes);
        bulk_commit();
        bulk_wait<0>();
    }
}
EXPORT_KERNEL(bulk_copy)
