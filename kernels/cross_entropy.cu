// Softmax cross-entropy: loss, hit and gradient in one kernel, in place.
//
//   losses[row] = log(sum(exp(logits))) - logits[label]
//   hits[row]   = 1 if the label has the largest logit (the first of equals), else 0
//   logits     := scale (softmax(logits) - onehot(label)), the gradient of scale * sum(losses)
//   total       = sum(losses) and sum(hits), in f64, in a fixed order
//
// Shapes: logits [rows, classes] with `stride` elements from row to row; labels, hits [rows] i32; losses [rows] f32; total
// [2] f64. A label that is no class makes the loss NaN and never an access outside the row.
//
// Floor, 9,830 x 4,101 bf16: 1 read + 1 write = 161 MB, 0.054 ms at 3.0 TB/s; about 12 operations an element.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A block a row. One pass finds maximum and sum together (online softmax: Milakov and Gimelshein, arXiv 1805.02867); a
//      second, out of the cache, writes the gradient. Rows may start at any byte, so a thread's groups are counted from
//      the start of the tensor, where they are aligned, and only a row's two ends are taken element by element.

#include <cfloat>

#include "common/pack.cuh"
#include "common/reduce.cuh"

namespace {

// 4,101 classes are 513 groups: two or three a thread. More threads would idle at the end, fewer would have less in flight.
constexpr int THREADS = 256;
constexpr int WARPS = THREADS / WARP;

// What a thread, a warp or a block knows of a row.
struct Softmax {
    float max;
    float sum;  // of exp(logit - max)
    int64_t at;  // index of the first logit that equals max
};

__device__ __forceinline__ Softmax empty_softmax() { return {-FLT_MAX, 0.0f, INT64_MAX}; }

__device__ __forceinline__ void add_logit(Softmax& softmax, float logit, int64_t at) {
    if (logit > softmax.max) {
        softmax.sum *= expf(softmax.max - logit);
        softmax.max = logit;
        softmax.at = at;
    }
    softmax.sum += expf(logit - softmax.max);
    if (logit == softmax.max && at < softmax.at) softmax.at = at;
}

__device__ __forceinline__ Softmax combine(const Softmax& a, const Softmax& b) {
    const float max = fmaxf(a.max, b.max);
    const int64_t at_a = a.max == max ? a.at : INT64_MAX, at_b = b.max == max ? b.at : INT64_MAX;
    return {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max), at_a < at_b ? at_a : at_b};
}

__device__ __forceinline__ Softmax warp_softmax(Softmax softmax) {
#pragma unroll
    for (int offset = WARP / 2; offset > 0; offset /= 2) {
        const Softmax other = {__shfl_xor_sync(FULL_WARP, softmax.max, offset),
                               __shfl_xor_sync(FULL_WARP, softmax.sum, offset),
                               __shfl_xor_sync(FULL_WARP, softmax.at, offset)};
        softmax = combine(softmax, other);
    }
    return softmax;
}

// Calls visit(first element, whether all eight belong to the row) for the thread's groups of the row start..end.
template <typename Visit>
__device__ __forceinline__ void for_groups(int64_t start, int64_t end, Visit visit) {
    for (int64_t group = start / GROUP + threadIdx.x; group * GROUP < end; group += THREADS) {
        const int64_t first = group * GROUP;
        visit(first, first >= start && first + GROUP <= end);
    }
}

template <typename T>
__device__ __forceinline__ Softmax row_softmax(const T* logits, int64_t start, int64_t end, bool aligned) {
    Softmax softmax = empty_softmax();
    for_groups(start, end, [&](int64_t first, bool whole) {
        if (whole && aligned) {
            float values[GROUP];
            load_group<true>(logits + first, GROUP, values);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) add_logit(softmax, values[i], first + i);
        } else {
            for (int i = 0; i < GROUP; ++i)
                if (first + i >= start && first + i < end) add_logit(softmax, to_float(logits[first + i]), first + i);
        }
    });
    return softmax;
}

template <typename T>
__device__ __forceinline__ void forward(T* logits, const int* labels, int rows, int classes, int stride, float scale,
                                        float* losses, int* hits) {
    __shared__ Softmax warps[WARPS];
    const bool aligned = is_aligned(logits);
    for (int row = blockIdx.x; row < rows; row += gridDim.x) {
        const int64_t start = static_cast<int64_t>(row) * stride, end = start + classes;
        const int label = labels[row];
        const bool is_class = label >= 0 && label < classes;
        const int64_t target = is_class ? start + label : -1;
        // Before any thread overwrites it: the barrier below stands between this read and the writes.
        const float at_label = is_class ? to_float(logits[target]) : NAN;

        Softmax softmax = warp_softmax(row_softmax(logits, start, end, aligned));
        if (threadIdx.x % WARP == 0) warps[threadIdx.x / WARP] = softmax;
        __syncthreads();
        softmax = warps[0];
        for (int warp = 1; warp < WARPS; ++warp) softmax = combine(softmax, warps[warp]);
        __syncthreads();

        const float factor = scale / softmax.sum;
        const auto gradient = [&](float logit, int64_t at) {
            return expf(logit - softmax.max) * factor - (at == target ? scale : 0.0f);
        };
        for_groups(start, end, [&](int64_t first, bool whole) {
            if (whole && aligned) {
                float values[GROUP];
                load_group<true>(logits + first, GROUP, values);
#pragma unroll
                for (int i = 0; i < GROUP; ++i) values[i] = gradient(values[i], first + i);
                store_group<true>(logits + first, values, GROUP);
            } else {
                for (int i = 0; i < GROUP; ++i)
                    if (first + i >= start && first + i < end)
                        logits[first + i] = from_float<T>(gradient(to_float(logits[first + i]), first + i));
            }
        });
        if (threadIdx.x == 0) {
            losses[row] = logf(softmax.sum) - (at_label - softmax.max);
            hits[row] = is_class && softmax.at == target;
        }
    }
}

}  // namespace

// cross_entropy_forward: any number of blocks of 256 threads; `rows` of them make it one pass.
#define CROSS_ENTROPY(T, DTYPE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward_##DTYPE(                          \
        T* logits, const int* labels, int rows, int classes, int stride, float scale, float* losses, int* hits) { \
        forward(logits, labels, rows, classes, stride, scale, losses, hits);                                      \
    }                                                                                                             \
    EXPORT_KERNEL(cross_entropy_forward_##DTYPE)

CROSS_ENTROPY(float, f32)
CROSS_ENTROPY(bf16, bf16)

// cross_entropy_total: one block of 256 threads, so that the host copies sixteen bytes instead of two arrays.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_total(const float* losses, const int* hits, int rows, double* total) {
    __shared__ double scratch[WARPS];
    double loss = 0.0, hit = 0.0;
    for (int row = threadIdx.x; row < rows; row += THREADS) {
        loss += losses[row];
        hit += hits[row];
    }
    loss = block_sum<THREADS>(loss, scratch);
    hit = block_sum<THREADS>(hit, scratch);
    if (threadIdx.x == 0) {
        total[0] = loss;
        total[1] = hit;
    }
}
EXPORT_KERNEL(cross_entropy_total)
