// Activations with their slopes, for kernels that take one or the other. T is the type that the result is rounded to.
#pragma once

#include "common/gelu.cuh"

template <typename T>
struct GeluExact {
    static __device__ __forceinline__ float value(float u) { return gelu<T>(u); }
    static __device__ __forceinline__ float slope(float u) { return gelu_slope<T>(u); }
};

// 1 / (1 + exp(-x)); 0 where exp overflows. What is rounded to bf16 has 1 / x and 2^x in one instruction each, to 3 units in the last place and
// what the rounding of the exponent adds, 6e-8 x.
template <typename T>
__device__ __forceinline__ float sigmoid(float x) {
    if constexpr (sizeof(T) == sizeof(float))
        return 1.0f / (1.0f + expf(-x));
    else
        return reciprocal_approximate(1.0f + exp2_approximate(x * -1.44269504f));
}

// u sigmoid(u)
template <typename T>
struct Silu {
    static __device__ __forceinline__ float value(float u) { return u * sigmoid<T>(u); }
    static __device__ __forceinline__ float slope(float u) {
        const float s = sigmoid<T>(u);
        return s * fmaf(u, 1.0f - s, 1.0f);
    }
};

// u (1 + tanh(v)) / 2 with v = sqrt(2 / pi) (u + 0.044715 u^3), as u sigmoid(2 v): an exponential and a reciprocal, where tanhf takes about four
// times that and has no small relative error of 1 + tanh in the tail.
template <typename T>
struct GeluTanh {
    static constexpr float LINEAR = 1.5957691f, CUBIC = 0.071354814f;  // 2 sqrt(2 / pi), and that times 0.044715

    static __device__ __forceinline__ float share(float u) { return sigmoid<T>(u * fmaf(u * u, CUBIC, LINEAR)); }
    static __device__ __forceinline__ float value(float u) { return u * share(u); }
    static __device__ __forceinline__ float slope(float u) {
        const float s = share(u);
        return fmaf(u * s * (1.0f - s), fmaf(u * u, 3.0f * CUBIC, LINEAR), s);
    }
};
