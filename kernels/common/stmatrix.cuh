// The way back of ldmatrix (sm_90): fragments of a warp into rows of shared memory.
#pragma once

#include "common/mma.cuh"

// Lane 8 i + r gives the address of row r of matrix i (16 bytes, aligned); register i of a lane is matrix i [group][2 member,
// +1], as in ldmatrix_x4.
__device__ __forceinline__ void stmatrix_x4(void* row, const unsigned (&matrices)[4]) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::stmatrix_x4(row, matrices);
#else
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address(row)),
                 "r"(matrices[0]), "r"(matrices[1]), "r"(matrices[2]), "r"(matrices[3])
                 : "memory");
#endif
}
