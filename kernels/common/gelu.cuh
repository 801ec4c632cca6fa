// GELU with the exact error function, u Phi(u), and its slope, Phi(u) + u phi(u). T is the type that the result is rounded to.
#pragma once

#include "common/approximate.cuh"

// phi(u) sqrt(2 pi), and what Phi(-|u|) is of it.
struct Normal {
    float gauss;
    float ratio;
};

// For y = |u|: Phi(-y) = exp(-y^2/2) t P(t) with t = 1 / (1 + 0.26 y), the form of Abramowitz and Stegun 7.1.26 with the
// polynomial of src/device/cpu/real.rs: relative error 3e-7 in f32, in the tails too, which erff is not. It costs one exponential,
// one reciprocal, nine multiply-adds and three products; erff and an exp would cost about three times that. What is
// rounded to bf16 has them in one instruction each, and an error of up to 3e-7 + 6e-8 u^2: half the instructions of the exact ones.
template <typename T>
__device__ __forceinline__ Normal normal(float u) {
    constexpr bool EXACT = sizeof(T) == sizeof(float);
    const float gauss = EXACT ? expf(-0.5f * u * u) : exp2_approximate(u * u * -0.72134752f);
    const float divisor = fmaf(0.26f, fabsf(u), 1.0f);
    const float t = EXACT ? 1.0f / divisor : reciprocal_approximate(divisor);
    float p = 0.03106583f;
    p = fmaf(p, t, -0.15557333f);
    p = fmaf(p, t, 0.25720846f);
    p = fmaf(p, t, -0.157558f);
    p = fmaf(p, t, 0.16557518f);
    p = fmaf(p, t, 0.049022454f);
    p = fmaf(p, t, 0.1035545f);
    p = fmaf(p, t, 0.10294126f);
    p = fmaf(p, t, 0.10376364f);
    return {gauss, t * p};
}

// max(u, 0) - |u| Phi(-|u|)
template <typename T>
__device__ __forceinline__ float gelu(float u) {
    const Normal at = normal<T>(u);
    return fmaf(-fabsf(u), at.gauss * at.ratio, fmaxf(u, 0.0f));
}

// 0 or 1, by the sign of u, and the density's multiple of what is left.
template <typename T>
__device__ __forceinline__ float gelu_slope(float u) {
    const Normal at = normal<T>(u);
    return fmaf(at.gauss, fmaf(0.3989423f, u, -copysignf(at.ratio, u)), u < 0.0f ? 0.0f : 1.0f);
}
