// The pooler's activation: y = tanh(x) and dx = dy (1 - y^2), both in place.
//
// Shapes: [count]. One row a sequence: 128 x 768 elements are 0.4 MB of traffic, so the launch itself is the floor.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread an element.

#include "common/device.cuh"

// Any number of blocks of 256 threads; count / 256 of them make it one pass.
#define TANH(T, DTYPE)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) tanh_forward_##DTYPE(T* x, int64_t count) {               \
        follow_earlier_kernels();                                                                               \
        const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;                                      \
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step)     \
            x[i] = from_float<T>(tanhf(to_float(x[i])));                                                        \
    }                                                                                                           \
    extern "C" __global__ void __launch_bounds__(256) tanh_backward_##DTYPE(const T* y, T* dy, int64_t count) { \
        follow_earlier_kernels();                                                                               \
        const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;                                      \
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {   \
            const float value = to_float(y[i]);                                                                 \
            dy[i] = from_float<T>(to_float(dy[i]) * (1.0f - value * value));                                    \
        }                                                                                                       \
    }                                                                                                           \
    EXPORT_KERNEL(tanh_forward_##DTYPE)                                                                         \
    EXPORT_KERNEL(tanh_backward_##DTYPE)

TANH(float, f32)
TANH(bf16, bf16)
