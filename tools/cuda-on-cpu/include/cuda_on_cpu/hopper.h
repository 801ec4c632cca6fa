// What sm_90a adds, for the host bodies of inline-PTX wrappers: products of a warpgroup and bulk copies.
#pragma once

#include "block.h"

extern "C" {
void cuda_on_cpu_wgmma(float* d, uint32_t n, const uint32_t* a_registers, uint64_t a, uint64_t b, uint32_t flags,
                       const char* file, int line);
// operation: Mirrored by `Group` in src/wgmma.rs.
void cuda_on_cpu_wgmma_group(uint32_t operation, uint32_t operand, const char* file, int line);
void cuda_on_cpu_tensor_load(void* tile, const void* map, uint64_t* barrier, uint32_t rank, const int32_t* coordinates,
                             const char* file, int line);
void cuda_on_cpu_tensor_store(const void* map, const void* tile, uint32_t rank, const int32_t* coordinates,
                              const char* file, int line);
void cuda_on_cpu_bulk_load(void* to, const void* from, uint32_t bytes, uint64_t* barrier, const char* file, int line);
void cuda_on_cpu_bulk_store(void* to, const void* from, uint32_t bytes, const char* file, int line);
void cuda_on_cpu_bulk_commit();
void cuda_on_cpu_bulk_wait(uint32_t latest);
}

namespace cuda_on_cpu {

// D[64, n] = A[64, 16] B[16, n] (+ D where `accumulate`), all threads of four aligned warps. A and B by matrix descriptor.
template <int n, bool transposed_a, bool transposed_b>
inline void wgmma_m64k16_bf16(float (&d)[n / 2], uint64_t a, uint64_t b, bool accumulate, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_wgmma(d, n, nullptr, a, b, transposed_a | transposed_b << 1 | accumulate << 2, file, line);
}

// The same with A from registers.
template <int n, bool transposed_b>
inline void wgmma_m64k16_bf16(float (&d)[n / 2], const unsigned (&a)[4], uint64_t b, bool accumulate, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_wgmma(d, n, a, 0, b, transposed_b << 1 | accumulate << 2, file, line);
}

inline void wgmma_fence(CUDA_ON_CPU_HERE) { cuda_on_cpu_wgmma_group(0, 0, file, line); }
inline void wgmma_commit(CUDA_ON_CPU_HERE) { cuda_on_cpu_wgmma_group(1, 0, file, line); }

template <int groups>
inline void wgmma_wait(CUDA_ON_CPU_HERE) {
    static_assert(groups >= 0 && groups <= 7, "wgmma.wait_group takes a count up to 7");
    cuda_on_cpu_wgmma_group(2, groups, file, line);
}

inline void setmaxnreg_inc(unsigned count, CUDA_ON_CPU_HERE) { cuda_on_cpu_wgmma_group(3, count, file, line); }
inline void setmaxnreg_dec(unsigned count, CUDA_ON_CPU_HERE) { cuda_on_cpu_wgmma_group(4, count, file, line); }

// A tile of the tensor behind `map`, which begins at `coordinates` (the innermost dimension first).
template <int rank>
inline void tensor_load(void* tile, const void* map, unsigned long long* barrier, const int (&coordinates)[rank],
                        CUDA_ON_CPU_HERE) {
    cuda_on_cpu_tensor_load(tile, map, reinterpret_cast<uint64_t*>(barrier), rank, coordinates, file, line);
}

template <int rank>
inline void tensor_store(const void* map, const void* tile, const int (&coordinates)[rank], CUDA_ON_CPU_HERE) {
    cuda_on_cpu_tensor_store(map, tile, rank, coordinates, file, line);
}

inline void bulk_load(void* to, const void* from, unsigned bytes, unsigned long long* barrier, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_bulk_load(to, from, bytes, reinterpret_cast<uint64_t*>(barrier), file, line);
}

inline void bulk_store(void* to, const void* from, unsigned bytes, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_bulk_store(to, from, bytes, file, line);
}

inline void bulk_commit() { cuda_on_cpu_bulk_commit(); }

// Also stands for wait_group.read: the copy happens here, so the tile may be written afterwards, and not before.
template <int groups>
inline void bulk_wait() {
    cuda_on_cpu_bulk_wait(groups);
}

}  // namespace cuda_on_cpu
