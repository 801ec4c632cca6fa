// Softsign, the worked example of docs/library.md: y = x / (1 + |x|), and dx = dy / (1 + |x|)^2, in place in dy.
//
// Shapes: [count]. Floor: one read and one write forward, two reads and one write backward.

#include "common/device.cuh"

// Any number of blocks of 256 threads; count / 256 of them make it one pass.
#define SOFTSIGN(T, DTYPE)                                                                                          \
    extern "C" __global__ void __launch_bounds__(256) softsign_forward_##DTYPE(const T* x, T* y, int64_t count) {   \
        const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;                                          \
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {       \
            const float value = to_float(x[i]);                                                                     \
            y[i] = from_float<T>(value / (1.0f + fabsf(value)));                                                    \
        }                                                                                                           \
    }                                                                                                               \
    extern "C" __global__ void __launch_bounds__(256) softsign_backward_##DTYPE(const T* x, T* dy, int64_t count) { \
        const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x;                                          \
        for (int64_t i = static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += step) {       \
            const float root = 1.0f / (1.0f + fabsf(to_float(x[i])));                                               \
            dy[i] = from_float<T>(to_float(dy[i]) * root * root);                                                   \
        }                                                                                                           \
    }                                                                                                               \
    EXPORT_KERNEL(softsign_forward_##DTYPE)                                                                         \
    EXPORT_KERNEL(softsign_backward_##DTYPE)

SOFTSIGN(float, f32)
SOFTSIGN(bf16, bf16)
