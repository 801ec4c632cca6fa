// Functions in one instruction of the special function unit: 16 a clock and multiprocessor.
#pragma once

#include "common/device.cuh"

// 2^x to 2 units in the last place; 0 for x = -infinity.
__device__ __forceinline__ float exp2_approximate(float x) {
#ifdef CUDA_ON_CPU
    return exp2f(x);
#else
    float result;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}

// 1 / x to 1 unit in the last place. The division of C++ takes eight instructions, and a branch for numbers that none of ours are.
__device__ __forceinline__ float reciprocal_approximate(float x) {
#ifdef CUDA_ON_CPU
    return 1.0f / x;
#else
    float result;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
    return result;
#endif
}
