// Clusters of blocks (sm_90a): two blocks and more that run at the same time, next to each other on the chip, and reach each other's
// shared memory. A kernel is launched in clusters when it has `__cluster_dims__(N, 1, 1)` between `void` and its name; the grid is then
// a multiple of N, and the launch as any other. As in sm90.cuh nothing else has inline PTX of these.
//
// What a kernel must keep, and what the emulator sees of it:
//
//   begin     cluster_sync() between mbarrier_init, with its fence, and the first touch of another block. (Seen, under most
//             schedules: a barrier that is not initialised.)
//   copy      every block expects the bytes that reach its own barrier, its own and the others' shares. The count may fall below zero
//             when another block's share is first: a phase ends with the last arrival alone. (Seen: wrong counts deadlock.)
//   refill    whoever copies into another block waits for that block's readers, too: they arrive there with mbarrier_arrive_in.
//             (Seen: a product whose operand changes under it.)
//   drain     before its end a block waits for all phases that another block arrives for: cluster_sync() orders no such arrival, which may
//             be on its way still when the block is gone. (Seen: an arrival from another block that nobody waited for.)
//   end       cluster_sync() of all threads: shared memory goes with its block. (Seen: reaching into a block that has returned.)
#pragma once

#include "common/sm90.cuh"

// The number of this block in its cluster.
__device__ __forceinline__ int cluster_rank() {
#ifdef CUDA_ON_CPU
    return static_cast<int>(cuda_on_cpu::cluster_rank());
#else
    int rank;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
    return rank;
#endif
}

// All threads of the cluster that have not returned meet. It makes barriers seen that mbarrier_init_fence() stands behind, and no other
// writes: to release those would cost a fence of the whole GPU.
__device__ __forceinline__ void cluster_sync() {
    __syncwarp();
#ifdef CUDA_ON_CPU
    cuda_on_cpu::cluster_arrive();
    cuda_on_cpu::cluster_wait();
#else
    asm volatile("barrier.cluster.arrive.relaxed.aligned;\nbarrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

// Arrives at the barrier that has this place in the block of that rank, which may be one's own: a tile was read. It orders no ordinary
// writes, which a warp would pay for with a fence of the whole GPU a stage; products have read when their wgmma_wait returns.
__device__ __forceinline__ void mbarrier_arrive_in(Mbarrier* barrier, int rank) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::mbarrier_arrive_in(barrier, rank);
#else
    asm volatile(
        "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
        "mbarrier.arrive.relaxed.cluster.shared::cluster.b64 _, [there];\n}" ::"r"(shared_address(barrier)),
        "r"(rank)
        : "memory");
#endif
}

// tma_load of a matrix's tile to this place of every block whose bit is set in `blocks`, with the bytes to each one's barrier: it is
// read from L2 once.
__device__ __forceinline__ void tma_multicast(void* tile, const TensorMap* map, Mbarrier* barrier, const int (&at)[2],
                                              unsigned short blocks) {
#ifdef CUDA_ON_CPU
    cuda_on_cpu::tensor_multicast(tile, map, barrier, at, blocks);
#else
    asm volatile(
        "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%0], [%1, {%3, %4}], [%2], "
        "%5;" ::"r"(shared_address(tile)),
        "l"(map), "r"(shared_address(barrier)), "r"(at[0]), "r"(at[1]), "h"(blocks)
        : "memory");
#endif
}
