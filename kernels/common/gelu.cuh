// GELU with the exact error function, u Phi(u), and its slope, Phi(u) + u phi(u). T is the type that the result is rounded to.
#pragma once

#include "common/approximate.cuh"

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
        float p = 0.03106583f;
        p = fmaf(p, t, -0.15557333f);
        p = fmaf(p, t, 0.25720846f);
        p = fmaf(p, t, -0.157558f);
        p = fmaf(p, t, 0.16557518f);
        p = fmaf(p, t, 0.049022454f);
        p = fmaf(p, t, 0.1035545f);
        p = fmaf(p, t, 0.10294126f);
        p = fmaf(p, t, 0.10376364f);
        return {expf(-0.5f * u * u), t * p};
    } else {
        const float t = reciprocal_approximate(fmaf(0.36f, fabsf(u), 1.0f));
        float p = 0.0476489125f;
        p = fmaf(p, t, -0.18179259f);
        p = fmaf(p, t, 0.183715113f);
        p = fmaf(p, t, 0.0246454458f);
        p = fmaf(p, t, 0.140416362f);
        p = fmaf(p, t, 0.141644657f);
        p = fmaf(p, t, 0.143722171f);
        return {exp2_approximate(u * u * -0.72134752f), t * p};
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
