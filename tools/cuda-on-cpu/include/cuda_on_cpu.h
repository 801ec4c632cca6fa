// One header for kernels that are compiled by nvcc for a GPU and by g++ or clang++ for the CPU.
// Under nvcc it holds the few macros of the contract and nothing else; see ../README.md.
#pragma once

#if defined(__CUDACC__)

#define EXPORT_KERNEL(name)
#define EXPORT_KERNEL_AS(name, ...)
#define DYNAMIC_SHARED(type, name) DYNAMIC_SHARED_ALIGNED(type, name, 16)
#define DYNAMIC_SHARED_ALIGNED(type, name, alignment)                                  \
    extern __shared__ __align__(alignment) unsigned char name##_dynamic_shared[];      \
    type* const name = reinterpret_cast<type*>(name##_dynamic_shared)

#else

#define CUDA_ON_CPU 1
#include "cuda_on_cpu/core.h"
#include "cuda_on_cpu/vector_types.h"
#include "cuda_on_cpu/math.h"
#include "cuda_on_cpu/bfloat16.h"
#include "cuda_on_cpu/half.h"
#include "cuda_on_cpu/memory.h"
#include "cuda_on_cpu/block.h"
#include "cuda_on_cpu/warp.h"
#include "cuda_on_cpu/tensor.h"
#include "cuda_on_cpu/async.h"
#include "cuda_on_cpu/hopper.h"
#include "cuda_on_cpu/cluster.h"
#include "cuda_on_cpu/export.h"

#endif
