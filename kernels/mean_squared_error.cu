// Mean squared error of a regression, loss and gradient in one kernel, in place.
//
//   losses[row] = mean over columns of (logits - targets)^2
//   logits     := scale 2 (logits - targets) / columns, the gradient of scale * sum(losses)
//   hits[row]   = 0: a number is not right or wrong
//
// Shapes: logits [rows, columns] with rows `stride` elements apart, targets [rows, columns] f32, losses [rows] f32, hits [rows] i32. cross_entropy_total adds
// the losses up.
//
// Floor, 128 x 1 bf16: a kilobyte; the launch itself is the floor.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A warp a row.

#include "common/reduce.cuh"

// (rows + 7) / 8 blocks of 256 threads, or any number of them.
#define MEAN_SQUARED_ERROR(T, DTYPE)                                                                               \
    extern "C" __global__ void __launch_bounds__(256) mean_squared_error_forward_##DTYPE(                          \
        T* logits, const float* targets, int rows, int columns, int stride, float scale, float* losses, int* hits) {           \
        follow_earlier_kernels();                                                                                              \
        const int lane = threadIdx.x % WARP, warps = gridDim.x * (blockDim.x / WARP);                              \
        const float each = 1.0f / static_cast<float>(columns);                                                     \
        for (int row = blockIdx.x * (blockDim.x / WARP) + threadIdx.x / WARP; row < rows; row += warps) {          \
            const int64_t start = static_cast<int64_t>(row) * stride, first = static_cast<int64_t>(row) * columns;                                             \
            float sum = 0.0f;                                                                                      \
            for (int column = lane; column < columns; column += WARP) {                                            \
                const float difference = to_float(logits[start + column]) - targets[first + column];               \
                sum += difference * difference;                                                                    \
                logits[start + column] = from_float<T>(2.0f * scale * each * difference);                          \
            }                                                                                                      \
            sum = warp_sum(sum);                                                                                   \
            if (lane == 0) {                                                                                       \
                losses[row] = sum * each;                                                                          \
                hits[row] = 0;                                                                                     \
            }                                                                                                      \
        }                                                                                                          \
    }                                                                                                              \
    EXPORT_KERNEL(mean_squared_error_forward_##DTYPE)

MEAN_SQUARED_ERROR(float, f32)
MEAN_SQUARED_ERROR(bf16, bf16)
