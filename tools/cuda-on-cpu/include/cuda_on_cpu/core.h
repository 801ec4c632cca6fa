// Qualifiers, indices, and what every other header needs: who the running thread is and how it reports a fault.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <type_traits>
#include <utility>

// Never inlined into the code that starts it, so that a fault's line is the kernel's.
#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __constant__ static
#define __managed__ static
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __restrict__ __restrict
#define __align__(bytes) alignas(bytes)

// cuda_on_cpu::build turns every marked declaration into a reference to storage of the running block, and moves a kernel's
// cluster to where it is exported. Without it (an editor, `g++ -fsyntax-only`) both only have to parse.
#if defined(CUDA_ON_CPU_BUILD)
#define __shared__ cuda_on_cpu_shared_declaration
#define __cluster_dims__(...) cuda_on_cpu_cluster_dims(__VA_ARGS__)
#define CUDA_ON_CPU_CLUSTER(...) cuda_on_cpu_cluster_of(__VA_ARGS__)
#else
#define __shared__ static thread_local
#define __cluster_dims__(...)
#define CUDA_ON_CPU_CLUSTER(...) 1, 1, 1
#endif

struct uint3 {
    unsigned x, y, z;
};

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
    constexpr dim3(uint3 v) : x(v.x), y(v.y), z(v.z) {}
    constexpr operator uint3() const { return uint3{x, y, z}; }
};

// Mirrored by `Thread` in src/thread.rs.
struct cuda_on_cpu_thread {
    uint3 thread_index;
    uint3 block_index;
    dim3 block_dim;
    dim3 grid_dim;
    unsigned lane;
    unsigned spins;
};

extern "C" {
extern __thread cuda_on_cpu_thread* cuda_on_cpu_current;

[[noreturn]] void cuda_on_cpu_assert_failed(const char* condition, const char* file, int line);
[[noreturn]] void cuda_on_cpu_trapped(const char* file, int line);
void cuda_on_cpu_yield();
}

#define threadIdx (static_cast<const uint3&>(::cuda_on_cpu_current->thread_index))
#define blockIdx (static_cast<const uint3&>(::cuda_on_cpu_current->block_index))
#define blockDim (static_cast<const dim3&>(::cuda_on_cpu_current->block_dim))
#define gridDim (static_cast<const dim3&>(::cuda_on_cpu_current->grid_dim))
static constexpr int warpSize = 32;

namespace cuda_on_cpu {

inline unsigned lane() { return cuda_on_cpu_current->lane; }

template <class To, class From>
inline To bit_cast(From from) {
    static_assert(sizeof(To) == sizeof(From), "bit_cast needs types of one size");
    To to;
    std::memcpy(&to, &from, sizeof to);
    return to;
}

}  // namespace cuda_on_cpu

// Where a kernel calls a function of these headers: as default arguments, the builtins name the caller's line.
#define CUDA_ON_CPU_HERE const char *file = __builtin_FILE(), int line = __builtin_LINE()

inline void __trap(CUDA_ON_CPU_HERE) { cuda_on_cpu_trapped(file, line); }
inline void __nanosleep(unsigned) { cuda_on_cpu_yield(); }

#include "assert.h"
