// Dropout that stands alone, forward and backward alike: values *= mask, in place.
//
// Shapes: values [count]. The mask is a function of the element's index, see common/dropout.cuh.
// Floor, 65,536 x 768 bf16: 1 read + 1 write = 201 MB, 0.067 ms at 3.0 TB/s; a Philox block (about 100 integer operations)
// for eight elements.
//
// Versions. No figure from a GPU has been seen yet.
//   1. A thread takes eight neighbours: one draw, one or two 16-byte accesses each way.

#include "common/dropout.cuh"
#include "common/pack.cuh"

namespace {

template <bool VECTOR, typename T>
__device__ __forceinline__ void apply(T* values, int64_t first, int valid, const Dropout& dropout) {
    float group[GROUP];
    load_group<VECTOR>(values + first, valid, group);
    dropout_apply<true>(dropout, first, group);
    store_group<VECTOR>(values + first, group, valid);
}

}  // namespace

// Any number of blocks of 256 threads; count / 2048 of them make it one pass.
#define DROPOUT(T, DTYPE)                                                                                              \
    extern "C" __global__ void __launch_bounds__(256) dropout_apply_##DTYPE(T* values, int64_t count, Dropout dropout) { \
        follow_earlier_kernels();                                                                                        \
        const bool aligned = is_aligned(values);                                                                       \
        const int64_t step = static_cast<int64_t>(gridDim.x) * blockDim.x * GROUP;                                     \
        int64_t first = (static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x) * GROUP;                         \
        for (; first < count; first += step) {                                                                         \
            if (aligned && count - first >= GROUP)                                                                     \
                apply<true>(values, first, GROUP, dropout);                                                            \
            else                                                                                                       \
                apply<false>(values, first, count - first < GROUP ? static_cast<int>(count - first) : GROUP, dropout);            \
        }                                                                                                              \
    }                                                                                                                  \
    EXPORT_KERNEL(dropout_apply_##DTYPE)

DROPOUT(float, f32)
DROPOUT(bf16, bf16)
