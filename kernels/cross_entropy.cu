// Softmax cross-entropy: loss, hit and gradient in one kernel, in place.
//
//   losses[row] = log(sum(exp(logits))) - logits[label]
//   hits[row]   = 1 if the label has the largest logit (the first of equals), else 0
//   logits     := scale (softmax(logits) - onehot(label)), the gradient of scale * sum(losses)
//   total       = sum(losses) and sum(hits), in f64, in a fixed order
//
// and where rows count unequally (cross_entropy_weigh, behind the first):
//
//   losses[row] := w (1 - p)^gamma losses[row], where p = exp(-losses[row]) is the label's probability and w its weight
//   logits[row] := w (1 - p)^gamma (1 + gamma p losses[row] / (1 - p)) logits[row], the gradient of the same
//
// Shapes: logits [rows, classes] with `stride` elements from row to row; labels, hits [rows] i32; losses [rows] f32; total
// [2] f64. A label that is no class makes the loss NaN and never an access outside the row.
//
// cross_entropy_weigh is for classifiers of a few classes: 64 x 3, where the launch itself is the floor.
//
// Floor, 9,830 x 4,101 bf16: 1 read + 1 write = 161 MB, 0.054 ms at 3.0 TB/s; about 12 operations an element.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A block a row. One pass finds maximum and sum together (online softmax: Milakov and Gimelshein, arXiv 1805.02867); a
//      second, out of the cache, writes the gradient. Rows may start at any byte, so a thread's groups are counted from
//      the start of the tensor, where they are aligned, and only a row's two ends are taken element by element.
//   2. A group's maximum first, so that a thread corrects its sum once a group at most; the hit as a class, found where the maximum
//      is; warps find maximum and sum one after the other. By the machine code some 4,500 issue slots of warps a row instead of
//      12,000. Prediction: 0.05 ms of the schedulers' time instead of 0.13, beside 0.054 ms of memory.

#include <cfloat>
#include <climits>

#include "common/approximate.cuh"
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
    int at;     // the first class whose logit equals max
};

__device__ __forceinline__ Softmax empty_softmax() { return {-FLT_MAX, 0.0f, INT_MAX}; }

// e^x for logits of type T: what comes of bf16 needs no better than 3e-7.
template <typename T>
__device__ __forceinline__ float exponential(float x) {
    return sizeof(T) == sizeof(float) ? expf(x) : exp2_approximate(x * 1.44269504f);
}

// Logits of the classes from `at` on; -infinity where there is none.
template <typename T>
__device__ __forceinline__ void add_logits(Softmax& softmax, const float (&logits)[GROUP], int at) {
    float max = logits[0];
#pragma unroll
    for (int i = 1; i < GROUP; ++i) max = fmaxf(max, logits[i]);
    // Seldom, but for a thread's first group.
    if (max > softmax.max) {
        softmax.sum *= exponential<T>(softmax.max - max);
        softmax.max = max;
#pragma unroll
        for (int i = GROUP - 1; i >= 0; --i)
            if (logits[i] == max) softmax.at = at + i;
    }
#pragma unroll
    for (int i = 0; i < GROUP; ++i) softmax.sum += exponential<T>(logits[i] - softmax.max);
}

// Of all lanes, for every lane.
template <typename T>
__device__ __forceinline__ Softmax warp_softmax(const Softmax& softmax) {
    const float max = warp_max(softmax.max);
    return {max, warp_sum(softmax.sum * exponential<T>(softmax.max - max)),
            __reduce_min_sync(FULL_WARP, softmax.max == max ? softmax.at : INT_MAX)};
}

// A row's groups of the tensor, each by the same thread every time. The row's two ends may have only a part of theirs.
template <typename T>
struct Row {
    T* logits;
    int64_t start, end;
    bool aligned;

    // Calls visit(first element, its class, whether all eight belong to the row).
    template <typename Visit>
    __device__ __forceinline__ void for_groups(Visit visit) const {
        for (int64_t group = start / GROUP + threadIdx.x; group * GROUP < end; group += THREADS) {
            const int64_t first = group * GROUP;
            visit(first, static_cast<int>(first - start), aligned && first >= start && first + GROUP <= end);
        }
    }

    __device__ __forceinline__ bool has(int64_t element) const { return element >= start && element < end; }

    __device__ __forceinline__ void load(int64_t first, bool whole, float (&values)[GROUP]) const {
        if (whole) {
            load_group<true>(logits + first, GROUP, values);
            return;
        }
#pragma unroll
        for (int i = 0; i < GROUP; ++i) values[i] = has(first + i) ? to_float(logits[first + i]) : -INFINITY;
    }

    __device__ __forceinline__ void store(int64_t first, bool whole, const float (&values)[GROUP]) const {
        if (whole) {
            store_group<true>(logits + first, values, GROUP);
            return;
        }
#pragma unroll
        for (int i = 0; i < GROUP; ++i)
            if (has(first + i)) logits[first + i] = from_float<T>(values[i]);
    }
};

template <typename T>
__device__ __forceinline__ void forward(T* logits, const int* labels, int rows, int classes, int stride, float scale,
                                        float* losses, int* hits) {
    __shared__ Softmax warps[WARPS];
    const int lane = threadIdx.x % WARP;
    for (int index = blockIdx.x; index < rows; index += gridDim.x) {
        const int64_t start = static_cast<int64_t>(index) * stride;
        const Row<T> row = {logits, start, start + classes, is_aligned(logits)};
        const int label = labels[index];
        const bool is_class = label >= 0 && label < classes;
        // Before any thread overwrites it: the barrier below stands between this read and the writes.
        const float at_label = is_class ? to_float(logits[start + label]) : NAN;

        Softmax softmax = empty_softmax();
        row.for_groups([&](int64_t first, int at, bool whole) {
            float values[GROUP];
            row.load(first, whole, values);
            add_logits<T>(softmax, values, at);
        });
        softmax = warp_softmax<T>(softmax);
        if (lane == 0) warps[threadIdx.x / WARP] = softmax;
        __syncthreads();
        softmax = warp_softmax<T>(lane < WARPS ? warps[lane] : empty_softmax());
        __syncthreads();

        const float factor = scale / softmax.sum;
        row.for_groups([&](int64_t first, int at, bool whole) {
            float values[GROUP];
            row.load(first, whole, values);
#pragma unroll
            for (int i = 0; i < GROUP; ++i) values[i] = exponential<T>(values[i] - softmax.max) * factor;
            if (is_class && label >= at && label < at + GROUP) {
#pragma unroll
                for (int i = 0; i < GROUP; ++i)
                    if (at + i == label) values[i] -= scale;
            }
            row.store(first, whole, values);
        });
        if (threadIdx.x == 0) {
            losses[index] = logf(softmax.sum) - (at_label - softmax.max);
            hits[index] = is_class && softmax.at == label;
        }
    }
}

}  // namespace

// cross_entropy_forward: any number of blocks of 256 threads; `rows` of them make it one pass.
#define CROSS_ENTROPY(T, DTYPE)                                                                                   \
    extern "C" __global__ void __launch_bounds__(THREADS) cross_entropy_forward_##DTYPE(                          \
        T* logits, const int* labels, int rows, int classes, int stride, float scale, float* losses, int* hits) { \
        follow_earlier_kernels();                                                                                 \
        forward(logits, labels, rows, classes, stride, scale, losses, hits);                                      \
    }                                                                                                             \
    EXPORT_KERNEL(cross_entropy_forward_##DTYPE)

CROSS_ENTROPY(float, f32)
CROSS_ENTROPY(bf16, bf16)

// cross_entropy_weigh: any number of blocks of 256 threads; (rows + 7) / 8 of them make it one pass, a warp a row.
#define CROSS_ENTROPY_WEIGH(T, DTYPE)                                                                                  \
    extern "C" __global__ void __launch_bounds__(THREADS)                                                              \
        cross_entropy_weigh_##DTYPE(T* gradient, const int* labels, const float* weights, int rows, int classes,       \
                                    int stride, float gamma, float* losses) {                                          \
        follow_earlier_kernels();                                                                                      \
        const int lane = threadIdx.x % WARP;                                                                           \
        for (int row = blockIdx.x * WARPS + threadIdx.x / WARP; row < rows; row += gridDim.x * WARPS) {                \
            const int label = labels[row];                                                                             \
            const float weight = label >= 0 && label < classes ? weights[label] : NAN, loss = losses[row];             \
            /* Every lane has read the loss before one of them writes it. */                                           \
            __syncwarp();                                                                                              \
            const float miss = -expm1f(-loss), focus = weight * powf(miss, gamma);                                     \
            /* -ln p over 1 - p, which is 1 in the limit of p = 1. */                                                  \
            const float ratio = miss > 0.0f ? loss / miss : 1.0f;                                                      \
            const float factor = focus * (1.0f + gamma * expf(-loss) * ratio);                                         \
            T* values = gradient + static_cast<int64_t>(row) * stride;                                                 \
            for (int at = lane; at < classes; at += WARP) values[at] = from_float<T>(factor * to_float(values[at]));   \
            if (lane == 0) losses[row] = focus * loss;                                                                 \
        }                                                                                                              \
    }                                                                                                                  \
    EXPORT_KERNEL(cross_entropy_weigh_##DTYPE)

CROSS_ENTROPY_WEIGH(float, f32)
CROSS_ENTROPY_WEIGH(bf16, bf16)

// cross_entropy_total: one block of 256 threads, so that the host copies sixteen bytes instead of two arrays.
extern "C" __global__ void __launch_bounds__(THREADS)
    cross_entropy_total(const float* losses, const int* hits, int rows, double* total) {
    follow_earlier_kernels();
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
