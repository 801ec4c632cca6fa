// Binary cross-entropy of logits, a class at a time (multi-label data): loss, hit and gradient in one kernel, in place.
//
//   losses[row] = mean over columns of (1 - t) x + (1 + (w - 1) t) (max(-x, 0) + log(1 + exp(-|x|))): -log of the probability of
//                 target t, where a class that holds counts w times (PyTorch's pos_weight)
//   hits[row]   = 1 if every class is on its side: x > 0 where t > 1/2 and nowhere else
//   logits     := scale ((1 - t) sigmoid(x) - w t (1 - sigmoid(x))) / columns, the gradient of scale * sum(losses)
//
// Shapes: logits [rows, columns] with rows `stride` elements apart, targets [rows, columns] f32, positive (w) [columns] f32 or null, losses [rows] f32, hits [rows] i32. cross_entropy_total adds
// losses and hits up.
//
// Floor, 128 x 919 bf16: 0.9 MB, 0.3 us at 3.0 TB/s; the launch itself is the floor.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A warp a row. exp(-|x|) never overflows, and both the loss and the sigmoid are made of it.

#include "common/reduce.cuh"

// (rows + 7) / 8 blocks of 256 threads, or any number of them.
#define BINARY_CROSS_ENTROPY(T, DTYPE)                                                                             \
    extern "C" __global__ void __launch_bounds__(256) binary_cross_entropy_forward_##DTYPE(                        \
        T* logits, const float* targets, const float* positive, int rows, int columns, int stride, float scale,    \
        float* losses, int* hits) {                                                                                \
        follow_earlier_kernels();                                                                                  \
        const int lane = threadIdx.x % WARP, warps = gridDim.x * (blockDim.x / WARP);                              \
        const float each = 1.0f / static_cast<float>(columns);                                                     \
        for (int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; row < rows; row += warps) {          \
            const int64_t start = static_cast<int64_t>(row) * stride, first = static_cast<int64_t>(row) * columns;                                             \
            float sum = 0.0f, wrong = 0.0f;                                                                        \
            for (int column = lane; column < columns; column += WARP) {                                            \
                const float x = to_float(logits[start + column]), target = targets[first + column];                \
                const float small = expf(-fabsf(x));                                                               \
                const float sigmoid = (x >= 0.0f ? 1.0f : small) / (1.0f + small);                                 \
                const float rest = (x >= 0.0f ? small : 1.0f) / (1.0f + small), logarithm = log1pf(small);         \
                /* What the class counts for over and above 1. */                                                  \
                const float extra = positive == nullptr ? 0.0f : (positive[column] - 1.0f) * target;               \
                sum += fmaxf(x, 0.0f) - x * target + logarithm + extra * (fmaxf(-x, 0.0f) + logarithm);            \
                wrong += (x > 0.0f) != (target > 0.5f) ? 1.0f : 0.0f;                                              \
                logits[start + column] = from_float<T>(scale * each * (sigmoid - target - extra * rest));          \
            }                                                                                                      \
            sum = warp_sum(sum);                                                                                   \
            wrong = warp_sum(wrong);                                                                               \
            if (lane == 0) {                                                                                       \
                losses[row] = sum * each;                                                                          \
                hits[row] = wrong == 0.0f;                                                                         \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    EXPORT_KERNEL(binary_cross_entropy_forward_##DTYPE)

BINARY_CROSS_ENTROPY(float, f32)
BINARY_CROSS_ENTROPY(bf16, bf16)
