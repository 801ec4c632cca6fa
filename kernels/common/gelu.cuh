// GELU with the exact error function, u Phi(u), and its slope, Phi(u) + u phi(u). T is the type that the result is rounded to.
#pragma once

#include "common/approximate.cuh"

// By Horner's rule, the highest coefficient first.
template <int COUNT>
__device__ __forceinline__ float polynomial(float t, const float (&coefficients)[COUNT]) {
    float sum = coefficients[0];
#pragma unroll
    for (int i = 1; i < COUNT; ++i) sum = fmaf(sum, t, coefficients[i]);
    return sum;
}

// phi(u) sqrt(2 pi), and what Phi(-|u|) is of it.
struct Normal {
    float gauss;
    float ratio;
};

// For y = |u|: Phi(-y) = exp(-y^2/2) t P(t) with t = 1 / (1 + c y), the form of Abramowitz and Stegun 7.1.26, whose relative error is
// small in the tails too, which that of erff is not. For f32 the polynomial of src/device/cpu/real.rs, to 3e-7: one exponential, one reciprocal,
// nine multiply-adds and three products; erff and an exp would cost about three times that. What is rounded to bf16 has a polynomial of
// degree 6, fitted to 0..13 by reweighted least squares, to 9e-7, and 1 / x and 2^x in one instruction each. (Degree 4, 4e-5, would do for
// values of bf16, but not for the f32 sums of a bias's gradient.)
template <typename T>
__device__ __forceinline__ Normal normal(float u) {
    if constexpr (sizeof(T) == sizeof(float)) {
        const float t = 1.0f / fmaf(0.26f, fabsf(u), 1.0f);
        return {expf(-0.5f * u * u), t * polynomial(t, {0.03106583f, -0.15557333f, 0.25720846f, -0.157558f, 0.16557518f, 0.049022454f,
                                                        0.1035545f, 0.10294126f, 0.10376364f})};
    } else {
        const float t = reciprocal_approximate(fmaf(0.36f, fabsf(u), 1.0f));
        return {exp2_approximate(u * u * -0.72134752f),
                t * polynomial(t, {0.0476489125f, -0.18179259f, 0.183715113f, 0.0246454458f, 0.140416362f, 0.141644657f, 0.143722171f})};
    }
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
