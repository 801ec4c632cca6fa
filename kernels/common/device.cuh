// What every kernel includes first: CUDA's types when nvcc compiles, the emulator's when the C++ compiler does.
//
// House rules for a kernel file: the device functions are templates over the element type T (float or __nv_bfloat16);
// the entry points are extern "C", named OP_PASS_DTYPE, and followed by EXPORT_KERNEL(name). Arithmetic is in f32 whatever
// T is; a value is rounded once, when it is stored. Counts of rows and columns are int, counts of elements are int64_t.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "cuda_on_cpu.h"  // EXPORT_KERNEL and DYNAMIC_SHARED under nvcc, everything under the C++ compiler

using bf16 = __nv_bfloat16;

constexpr int WARP = 32;
constexpr unsigned FULL_WARP = 0xffffffffu;

// Elements that a thread handles at once: 16 bytes of bf16, two times 16 bytes of f32, and one Philox block of dropout.
constexpr int GROUP = 8;

// What a kernel does first. Launched as a dependent one (--dependent-launch, sm_90), its blocks may start while the last blocks of the kernel
// before it still run, and nothing that this kernel has written or freed may be touched before here. Then the same is allowed to the kernel
// behind: its blocks take what room the last of ours leave, and wait here. Without that attribute both return at once.
__device__ __forceinline__ void follow_earlier_kernels() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__host__ __device__ constexpr int divide_up(int value, int by) { return (value + by - 1) / by; }

__device__ __forceinline__ float to_float(float value) { return value; }
__device__ __forceinline__ float to_float(bf16 value) { return __bfloat162float(value); }

template <typename T>
__device__ __forceinline__ T from_float(float value);
template <>
__device__ __forceinline__ float from_float<float>(float value) { return value; }
template <>
__device__ __forceinline__ bf16 from_float<bf16>(float value) { return __float2bfloat16_rn(value); }
