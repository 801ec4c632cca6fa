// Tensor-core products of bf16 fragments with f32 sums (mma.sync, sm_80 and later), and the swizzled tiles in shared
// memory that the fragments are read from.
//
// A warp multiplies A [16, 16] and B [16, 8] into C [16, 8]. With group = lane / 4 and member = lane % 4 (two bf16 a
// register, the lower column, for B the lower row, in the low half) a lane holds
//
//   a[0]  A[group][2 member, +1]    a[1]  A[group + 8][2 member, +1]    a[2], a[3]  the same, columns + 8
//   b[0]  B[2 member, +1][group]    b[1]  B[2 member + 8, + 9][group]
//   c[0], c[1]  C[group][2 member, +1]    c[2], c[3]  C[group + 8][2 member, +1]
//
// ldmatrix loads up to four 8 x 8 matrices of bf16: lane 8 i + r gives the address of row r of matrix i (16 bytes,
// aligned), and register i of a lane becomes matrix i [group][2 member, +1], with _trans matrix i [2 member,
// +1][group]. So A from rows along k takes the plain form and B from rows along n (stored as columns of B) too; the
// other storage order takes _trans.
#pragma once

#include "common/cp_async.cuh"

// c += a b
__device__ __forceinline__ void mma_m16n8k16(float (&c)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::mma_m16n8k16_bf16(c, a, b, c);
#else
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}

__device__ __forceinline__ void ldmatrix_x4(unsigned (&matrices)[4], const void* row) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::ldmatrix_x4(matrices, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

__device__ __forceinline__ void ldmatrix_x4_trans(unsigned (&matrices)[4], const void* row) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::ldmatrix_x4_trans(matrices, row);
#else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(matrices[0]), "=r"(matrices[1]), "=r"(matrices[2]), "=r"(matrices[3])
                 : "r"(shared_address(row))
                 : "memory");
#endif
}

// Where element [row][column] of a tile with rows of COLUMNS bf16 lies, in elements; `column` is a multiple of eight,
// the 16-byte chunk that cp.async writes and ldmatrix reads.
//
// Why: eight rows of an ldmatrix lie in one column of chunks. Unswizzled and with rows of 128 bytes or more they would
// all fall on the same four of the 32 banks. Here the chunk's number is xor-ed with the row's, so that eight
// neighbouring rows take eight different chunks of the 128 bytes that a pass over the banks covers. Rows of 64 bytes
// already alternate between the halves of those 128 bytes; there every second row takes the next chunk. A row's chunks
// are only permuted, so that neighbouring lanes which copy a row also cover all banks.
template <int COLUMNS>
__host__ __device__ constexpr int swizzled(int row, int column) {
    static_assert(COLUMNS == 32 || COLUMNS % 64 == 0, "rows of 64 bytes, or whole passes over the banks");
    const int turn = COLUMNS == 32 ? row / 2 % 4 : row % 8;
    return row * COLUMNS + (column ^ turn * 8);
}

// Whether the eight rows of every ldmatrix lie in eight different chunks of a pass over the banks. Results do not show
// it when they do not, so it is checked here.
template <int COLUMNS>
constexpr bool swizzle_has_no_conflicts() {
    for (int first = 0; first < 64; first += 8)
        for (int column = 0; column < COLUMNS; column += 8) {
            int chunks = 0;
            for (int row = first; row < first + 8; ++row) chunks |= 1 << swizzled<COLUMNS>(row, column) / 8 % 8;
            if (chunks != 0xff) return false;
        }
    return true;
}
static_assert(swizzle_has_no_conflicts<32>() && swizzle_has_no_conflicts<64>() && swizzle_has_no_conflicts<128>(),
              "two rows of an ldmatrix share banks");
