// The global gradient norm and the factor that clips it.
//
//   norm   = sqrt(sum of squares)
//   factor = min(1, max_norm / (norm + 1e-6))   as PyTorch's clip_grad_norm_; 1 where max_norm is 0
//
// Shapes: values [count]; partials [blocks] f64; result [2] f32: norm, factor. A norm that is not finite gives a factor that is
// NaN, at which adamw leaves everything as it was: nobody has to wait for the norm before launching the update.
//
// Floor, 89.2 M gradients in f32: one read of 357 MB, 0.12 ms at 3.0 TB/s; two operations an element.
//
// Versions. No figure from a GPU has been seen yet.
//   1. Squares are added in f32 eight at a time and in f64 from there on: one f64 addition for eight elements costs nothing
//      even on chips whose f64 rate is a 64th. Two stages; the order of the additions depends on the grid alone.

#include <cfloat>

#include "common/pack.cuh"
#include "common/reduce.cuh"

namespace {

constexpr int THREADS = 256;

template <bool VECTOR, typename T>
__device__ __forceinline__ float group_squares(const T* values, int valid) {
    float group[GROUP], sum = 0.0f;
    load_group<VECTOR>(values, valid, group);
#pragma unroll
    for (int i = 0; i < GROUP; ++i) sum = fmaf(group[i], group[i], sum);
    return sum;
}

template <typename T>
__device__ __forceinline__ void partial(const T* values, int64_t count, double* partials) {
    __shared__ double scratch[THREADS / WARP];
    const bool aligned = is_aligned(values);
    const int64_t step = static_cast<int64_t>(gridDim.x) * THREADS * GROUP;
    double sum = 0.0;
    for (int64_t first = (static_cast<int64_t>(blockIdx.x) * THREADS + threadIdx.x) * GROUP; first < count; first += step)
        sum += aligned && count - first >= GROUP
                   ? group_squares<true>(values + first, GROUP)
                   : group_squares<false>(values + first, count - first < GROUP ? static_cast<int>(count - first) : GROUP);
    sum = block_sum<THREADS>(sum, scratch);
    if (threadIdx.x == 0) partials[blockIdx.x] = sum;
}

}  // namespace

// norm_partial: a persistent grid of 256-thread blocks (eight a multiprocessor); partials [blocks].
#define NORM_PARTIAL(T, DTYPE)                                               \
    extern "C" __global__ void __launch_bounds__(THREADS)                    \
        norm_partial_##DTYPE(const T* values, int64_t count, double* partials) { \
        follow_earlier_kernels();                                                \
        partial(values, count, partials);                                    \
    }                                                                        \
    EXPORT_KERNEL(norm_partial_##DTYPE)

NORM_PARTIAL(float, f32)
NORM_PARTIAL(bf16, bf16)

// norm_finish: one block of 256 threads.
extern "C" __global__ void __launch_bounds__(THREADS)
    norm_finish(const double* partials, int parts, float max_norm, float* result) {
    follow_earlier_kernels();
    __shared__ double scratch[THREADS / WARP];
    double sum = 0.0;
    for (int part = threadIdx.x; part < parts; part += THREADS) sum += partials[part];
    const double norm = sqrt(block_sum<THREADS>(sum, scratch));
    if (threadIdx.x == 0) {
        const double factor = max_norm > 0.0f ? fmin(1.0, max_norm / (norm + 1e-6)) : 1.0;
        result[0] = static_cast<float>(norm);
        result[1] = norm <= DBL_MAX ? static_cast<float>(factor) : NAN;
    }
}
EXPORT_KERNEL(norm_finish)
