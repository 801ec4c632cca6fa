// Hopper's own instructions (sm_90a): tiles that the copy engine moves (TMA), mbarriers that count their bytes, products of
// a warpgroup (wgmma), registers that warpgroups hand to each other. For files named *_sm90.cu, which are compiled for
// sm_90a alone. Nothing else has inline PTX of these.
//
// The order of things that a kernel must keep, and what the emulator sees of it:
//
//   copy      one thread: mbarrier_arrive_expect_tx(full, bytes), then tma_load(tile, ..., full). Readers: mbarrier_wait(full,
//             parity), where parity begins at 0 and flips with every use of the stage. (Seen: a tile is poison until its
//             barrier has the bytes; wrong counts deadlock.)
//   refill    readers arrive on `empty` when their wgmma_wait has covered the products that read the stage. (Seen: a product
//             whose operand changes under it is a fault.)
//   product   wgmma_fence(); wgmma<...>(...) as often as wanted; wgmma_commit(); ... wgmma_wait<N>(); then the accumulators may
//             be touched. (Seen: they are poison until then; a missing fence after a wait is a fault.)
//             Around it wgmma_hold(accumulators) before the fence and behind the wait keeps nvcc from moving their uses;
//             the emulator cannot see that it is missing.
//   proxies   shared memory that threads wrote with ordinary stores and that wgmma or TMA reads: fence_proxy_async() by
//             every writer, then a barrier. (NOT seen by the emulator: ordinary stores are visible at once there.)
#pragma once

#include "common/cp_async.cuh"

// A CUtensorMap, or the emulator's own: `const __grid_constant__ TensorMap map` as a kernel's parameter, 128 bytes. Launch::tensor in Rust
// describes it and the driver encodes it.
struct alignas(64) TensorMap {
    uint64_t words[16];
};

// Eight bytes of shared memory.
using Mbarrier = unsigned long long;

// ---- mbarriers ----

// By one thread; then mbarrier_init_fence() by it and a __syncthreads() for all.
__device__ __forceinline__ void mbarrier_init(Mbarrier* barrier, unsigned arrivals) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::mbarrier_init(barrier, arrivals);
#else
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#endif
}

// Makes initialised barriers visible to the copy engine.
__device__ __forceinline__ void mbarrier_init_fence() {
#ifndef CUDA_ON_CPU
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

__device__ __forceinline__ void mbarrier_arrive(Mbarrier* barrier) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::mbarrier_arrive(barrier);
#else
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Arrives, and has the phase wait for `bytes` bytes more.
__device__ __forceinline__ void mbarrier_arrive_expect_tx(Mbarrier* barrier, unsigned bytes) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::mbarrier_arrive_expect_tx(barrier, bytes);
#else
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
                 : "memory");
#endif
}

// Returns when the phase of that parity has completed. A new barrier is in its phase 0, so waiting for parity 1 returns at once.
__device__ __forceinline__ void mbarrier_wait(Mbarrier* barrier, unsigned parity) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::mbarrier_wait(barrier, parity);
#else
    unsigned done;
    do {
        asm volatile(
            "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
            : "=r"(done)
            : "r"(shared_address(barrier)), "r"(parity)
            : "memory");
    } while (done == 0);
#endif
}

// ---- tiles through the copy engine ----

__device__ __forceinline__ void tma_prefetch(const TensorMap* map) {
#ifndef CUDA_ON_CPU
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
#endif
}

// Starts to copy the tile at `at` (element indices, the innermost dimension first; what lies outside the tensor becomes zero) to
// shared memory and reports its bytes to `barrier`. By one thread. `tile` is aligned to the period of the map's swizzle:
// 1024, 512, 256 bytes for rows of 128, 64, 32; to 128 bytes without one.
template <int RANK>
__device__ __forceinline__ void tma_load(void* tile, const TensorMap* map, Mbarrier* barrier, const int (&at)[RANK]) {
    static_assert(RANK >= 1 && RANK <= 5, "dimensions of a tensor map");
#ifdef CUDA_ON_CPU
    cuda_on_cpu::tensor_load(tile, map, barrier, at);
#else
#define SM90_LOAD(dimensions, places, ...)                                                                     \
    asm volatile("cp.async.bulk.tensor." dimensions                                                            \
                 ".shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {" places "}], [%2];" ::"r"( \
                     shared_address(tile)),                                                                    \
                 "l"(map), "r"(shared_address(barrier)), __VA_ARGS__                                           \
                 : "memory")
    if constexpr (RANK == 1) SM90_LOAD("1d", "%3", "r"(at[0]));
    if constexpr (RANK == 2) SM90_LOAD("2d", "%3, %4", "r"(at[0]), "r"(at[1]));
    if constexpr (RANK == 3) SM90_LOAD("3d", "%3, %4, %5", "r"(at[0]), "r"(at[1]), "r"(at[2]));
    if constexpr (RANK == 4) SM90_LOAD("4d", "%3, %4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));
    if constexpr (RANK == 5)
        SM90_LOAD("5d", "%3, %4, %5, %6, %7", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
#undef SM90_LOAD
#endif
}

// Starts to copy a tile from shared memory; what lies outside the tensor is left out. By one thread, behind
// fence_proxy_async() of all who wrote the tile and a barrier; then bulk_commit() and, before the tile is written again or
// the block ends, bulk_wait_read.
template <int RANK>
__device__ __forceinline__ void tma_store(const TensorMap* map, const void* tile, const int (&at)[RANK]) {
    static_assert(RANK >= 1 && RANK <= 5, "dimensions of a tensor map");
#ifdef CUDA_ON_CPU
    cuda_on_cpu::tensor_store(map, tile, at);
#else
#define SM90_STORE(dimensions, places, ...)                                                                      \
    asm volatile("cp.async.bulk.tensor." dimensions ".global.shared::cta.bulk_group [%0, {" places "}], [%1];" ::"l"(map), \
                 "r"(shared_address(tile)), __VA_ARGS__                                                          \
                 : "memory")
    if constexpr (RANK == 1) SM90_STORE("1d", "%2", "r"(at[0]));
    if constexpr (RANK == 2) SM90_STORE("2d", "%2, %3", "r"(at[0]), "r"(at[1]));
    if constexpr (RANK == 3) SM90_STORE("3d", "%2, %3, %4", "r"(at[0]), "r"(at[1]), "r"(at[2]));
    if constexpr (RANK == 4) SM90_STORE("4d", "%2, %3, %4, %5", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]));
    if constexpr (RANK == 5)
        SM90_STORE("5d", "%2, %3, %4, %5, %6", "r"(at[0]), "r"(at[1]), "r"(at[2]), "r"(at[3]), "r"(at[4]));
#undef SM90_STORE
#endif
}

// Starts to copy `bytes` bytes as they lie, to shared memory; all three are multiples of 16. By one thread.
__device__ __forceinline__ void bulk_load(void* to, const void* from, unsigned bytes, Mbarrier* barrier) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::bulk_load(to, from, bytes, barrier);
#else
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                     shared_address(to)),
                 "l"(from), "r"(bytes), "r"(shared_address(barrier))
                 : "memory");
#endif
}

// The way back, with the duties of tma_store.
__device__ __forceinline__ void bulk_store(void* to, const void* from, unsigned bytes) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::bulk_store(to, from, bytes);
#else
    asm volatile("cp.async.bulk.global.shared::cta.bulk_group [%0], [%1], %2;" ::"l"(to), "r"(shared_address(from)), "r"(bytes)
                 : "memory");
#endif
}

__device__ __forceinline__ void bulk_commit() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::bulk_commit();
#else
    asm volatile("cp.async.bulk.commit_group;" ::: "memory");
#endif
}

// Returns when at most GROUPS of this thread's groups of stores have not yet read their tiles.
template <int GROUPS>
__device__ __forceinline__ void bulk_wait_read() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::bulk_wait<GROUPS>();
#else
    asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(GROUPS) : "memory");
#endif
}

// Ordinary accesses to shared memory before it are seen by wgmma and the copy engine after it.
__device__ __forceinline__ void fence_proxy_async() {
#ifndef CUDA_ON_CPU
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// ---- warps of a block ----

// Waits until `threads` threads (whole warps) are at barrier 1 to 15; 0 is __syncthreads.
__device__ __forceinline__ void named_barrier_sync(int id, int threads) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::barrier_sync(id, threads);
#else
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// Counts into a barrier that others wait at.
__device__ __forceinline__ void named_barrier_arrive(int id, int threads) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::barrier_arrive(id, threads);
#else
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(threads) : "memory");
#endif
}

// A warpgroup gives registers back, or takes more: a multiple of 8 from 24 to 256 a thread. The kernel must have
// __launch_bounds__(threads, 1), and each role be one branch of a single if/else.
template <int COUNT>
__device__ __forceinline__ void registers_decrease() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::setmaxnreg_dec(COUNT);
#else
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

template <int COUNT>
__device__ __forceinline__ void registers_increase() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::setmaxnreg_inc(COUNT);
#else
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(COUNT));
#endif
}

// ---- products of a warpgroup ----

// How an operand's rows lie; the numbers are those of the descriptor. TMA writes the same pattern under the map's swizzle.
enum class Swizzle : uint64_t { none = 0, rows_128 = 1, rows_64 = 2, rows_32 = 3 };

// Describes an operand in shared memory, for K steps of 16 elements. Offsets in bytes, multiples of 16.
//
//   layout of a swizzled tile               leading_bytes                     stride_bytes
//   K-major: rows of the swizzle's width    not used                          from 8 rows to the next 8: 8 x width where rows are dense
//   along k, one a row of A / column of B
//   MN-major: rows of the swizzle's width   from one width (64 elements for   from 8 rows (k) to the next 8: 8 x width
//   along m or n, one a k                   128 bytes) to the next along m, n
//
// In a K-major tile the next step of k is wgmma_step(descriptor, 32) as long as it stays in the swizzle's width; in an
// MN-major one it is 16 rows on: wgmma_step(descriptor, 2 * stride_bytes).
__device__ __forceinline__ uint64_t wgmma_descriptor(const void* tile, Swizzle swizzle, unsigned leading_bytes,
                                                     unsigned stride_bytes) {
#ifdef CUDA_ON_CPU
    const uint64_t address = __cvta_generic_to_shared(tile);
#else
    const uint64_t address = shared_address(tile);
#endif
    return (address & 0x3ffff) >> 4 | static_cast<uint64_t>(leading_bytes >> 4) << 16 |
           static_cast<uint64_t>(stride_bytes >> 4) << 32 | static_cast<uint64_t>(swizzle) << 62;
}

// The same operand, `bytes` further on.
__device__ __forceinline__ uint64_t wgmma_step(uint64_t descriptor, unsigned bytes) { return descriptor + (bytes >> 4); }

// Keeps the compiler from moving reads and writes of these registers across this place.
template <int COUNT>
__device__ __forceinline__ void wgmma_hold(float (&registers)[COUNT]) {
#ifndef CUDA_ON_CPU
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+f"(registers[i])::"memory");
#endif
}
template <int COUNT>
__device__ __forceinline__ void wgmma_hold(unsigned (&registers)[COUNT]) {
#ifndef CUDA_ON_CPU
#pragma unroll
    for (int i = 0; i < COUNT; ++i) asm volatile("" : "+r"(registers[i])::"memory");
#endif
}

// Before the first product, and before each that follows a touch of accumulators or A registers.
__device__ __forceinline__ void wgmma_fence() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wgmma_fence();
#else
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

__device__ __forceinline__ void wgmma_commit() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wgmma_commit();
#else
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

// Returns when at most GROUPS of the warpgroup's groups are unfinished.
template <int GROUPS>
__device__ __forceinline__ void wgmma_wait() {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wgmma_wait<GROUPS>();
#else
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
#endif
}

// d [64, N] = a [64, 16] b [16, N], plus d if `accumulate`: bf16 operands, f32 sums, by all 128 threads of a warpgroup. Register
// 4 i + j of thread t is row 16 (t / 32) + t % 32 / 4 + 8 (j / 2), column 8 i + 2 (t % 4) + j % 2: warp by warp the layout of
// mma_m16n8k16, and so is that of A in registers. A_MN_MAJOR and B_MN_MAJOR: see wgmma_descriptor.
template <int N>
struct Wgmma {
    static_assert(N == -1, "one of the shapes at the end of this file");
};

template <int N, bool A_MN_MAJOR = false, bool B_MN_MAJOR = false>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], uint64_t a, uint64_t b, bool accumulate) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wgmma_m64k16_bf16<N, A_MN_MAJOR, B_MN_MAJOR>(d, a, b, accumulate);
#else
    Wgmma<N>::template from_memory<A_MN_MAJOR, B_MN_MAJOR>(d, a, b, accumulate);
#endif
}

// The same with A from registers.
template <int N, bool B_MN_MAJOR = false>
__device__ __forceinline__ void wgmma(float (&d)[N / 2], const unsigned (&a)[4], uint64_t b, bool accumulate) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::wgmma_m64k16_bf16<N, B_MN_MAJOR>(d, a, b, accumulate);
#else
    Wgmma<N>::template from_registers<B_MN_MAJOR>(d, a, b, accumulate);
#endif
}

#ifndef CUDA_ON_CPU
// An instruction names each of its N / 2 accumulators: places are their %0, %1, ..., operands their "+f"(d[0]), ..., and the
// numbers that follow are those of the operands behind them.
#define SM90_WGMMA(N, PLACES, OPERANDS, P0, P1, P2, P3, P4, P5, P6)                                                         \
    template <>                                                                                                             \
    struct Wgmma<N> {                                                                                                       \
        template <int A_MN_MAJOR, int B_MN_MAJOR>                                                                           \
        static __device__ __forceinline__ void from_memory(float (&d)[N / 2], uint64_t a, uint64_t b, int accumulate) {     \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P2 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N              \
                         "k16.f32.bf16.bf16 {" PLACES "}, %" #P0 ", %" #P1 ", p, 1, 1, %" #P3 ", %" #P4 ";\n}"              \
                         : OPERANDS                                                                                         \
                         : "l"(a), "l"(b), "r"(accumulate), "n"(A_MN_MAJOR), "n"(B_MN_MAJOR));                              \
        }                                                                                                                   \
        template <int B_MN_MAJOR>                                                                                           \
        static __device__ __forceinline__ void from_registers(float (&d)[N / 2], const unsigned (&a)[4], uint64_t b,        \
                                                              int accumulate) {                                             \
            asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #P5 ", 0;\nwgmma.mma_async.sync.aligned.m64n" #N              \
                         "k16.f32.bf16.bf16 {" PLACES "}, {%" #P0 ", %" #P1 ", %" #P2 ", %" #P3 "}, %" #P4                  \
                         ", p, 1, 1, %" #P6 ";\n}"                                                                          \
                         : OPERANDS                                                                                         \
                         : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate), "n"(B_MN_MAJOR));           \
        }                                                                                                                   \
    };

#define SM90_PLACES_16 "%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15"
#define SM90_PLACES_32 SM90_PLACES_16 ", %16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31"
#define SM90_PLACES_48 SM90_PLACES_32 ", %32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47"
#define SM90_PLACES_64 SM90_PLACES_48 ", %48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63"
#define SM90_PLACES_96 \
    SM90_PLACES_64 ", %64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79" \
    ", %80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95"
#define SM90_PLACES_128 \
    SM90_PLACES_96 ", %96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111" \
    ", %112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127"
#define SM90_8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), "+f"(d[i + 6]), "+f"(d[i + 7])
#define SM90_16(i) SM90_8(i), SM90_8(i + 8)
#define SM90_32(i) SM90_16(i), SM90_16(i + 16)
#define SM90_64(i) SM90_32(i), SM90_32(i + 32)
#define SM90_OPERANDS_16 SM90_16(0)
#define SM90_OPERANDS_32 SM90_32(0)
#define SM90_OPERANDS_48 SM90_32(0), SM90_16(32)
#define SM90_OPERANDS_64 SM90_64(0)
#define SM90_OPERANDS_96 SM90_64(0), SM90_32(64)
#define SM90_OPERANDS_128 SM90_64(0), SM90_64(64)
SM90_WGMMA(32, SM90_PLACES_16, SM90_OPERANDS_16, 16, 17, 18, 19, 20, 21, 22)
SM90_WGMMA(64, SM90_PLACES_32, SM90_OPERANDS_32, 32, 33, 34, 35, 36, 37, 38)
SM90_WGMMA(96, SM90_PLACES_48, SM90_OPERANDS_48, 48, 49, 50, 51, 52, 53, 54)
SM90_WGMMA(128, SM90_PLACES_64, SM90_OPERANDS_64, 64, 65, 66, 67, 68, 69, 70)
SM90_WGMMA(192, SM90_PLACES_96, SM90_OPERANDS_96, 96, 97, 98, 99, 100, 101, 102)
SM90_WGMMA(256, SM90_PLACES_128, SM90_OPERANDS_128, 128, 129, 130, 131, 132, 133, 134)
#undef SM90_PLACES_16
#undef SM90_PLACES_32
#undef SM90_PLACES_48
#undef SM90_PLACES_64
#undef SM90_PLACES_96
#undef SM90_PLACES_128
#undef SM90_OPERANDS_16
#undef SM90_OPERANDS_32
#undef SM90_OPERANDS_48
#undef SM90_OPERANDS_64
#undef SM90_OPERANDS_96
#undef SM90_OPERANDS_128
#undef SM90_8
#undef SM90_16
#undef SM90_32
#undef SM90_64
#undef SM90_WGMMA
#endif
