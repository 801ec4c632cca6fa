// One product of gemm.h as a kernel: -DVARIANT=0 to 4. A minute or two of nvcc each.
#include "gemm.h"

using Kernel = Variant<VARIANT>::Kernel;

extern "C" __global__ void __launch_bounds__(Kernel::MaxThreadsPerBlock, Kernel::MinBlocksPerMultiprocessor)
    gemm(CUTLASS_GRID_CONSTANT Kernel::Params const params) {
    extern __shared__ char shared[];
    Kernel kernel;
    kernel(params, shared);
}
