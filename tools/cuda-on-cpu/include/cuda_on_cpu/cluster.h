// Clusters of blocks, for the host bodies of inline-PTX wrappers. A place in another block's shared memory is named by the pointer
// to the same place in one's own and the other's rank.
#pragma once

#include "async.h"

extern "C" {
uint32_t cuda_on_cpu_cluster_rank();
uint32_t cuda_on_cpu_cluster_size();
void cuda_on_cpu_cluster_arrive(const char* file, int line);
void cuda_on_cpu_cluster_wait(const char* file, int line);
void cuda_on_cpu_tensor_multicast(void* tile, const void* map, uint64_t* barrier, uint32_t rank, const int32_t* coordinates,
                                  uint32_t mask, const char* file, int line);
}

namespace cuda_on_cpu {

inline unsigned cluster_rank() { return cuda_on_cpu_cluster_rank(); }
inline unsigned cluster_size() { return cuda_on_cpu_cluster_size(); }
inline void cluster_arrive(CUDA_ON_CPU_HERE) { cuda_on_cpu_cluster_arrive(file, line); }
inline void cluster_wait(CUDA_ON_CPU_HERE) { cuda_on_cpu_cluster_wait(file, line); }

// Arrives at `barrier` of the block of that rank, which may be one's own.
inline void mbarrier_arrive_in(unsigned long long* barrier, unsigned block, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_mbarrier(reinterpret_cast<uint64_t*>(barrier), 7, block, file, line);
}

// tensor_load to every block whose bit is set in `mask`; each one's barrier gets the bytes.
template <int rank>
inline void tensor_multicast(void* tile, const void* map, unsigned long long* barrier, const int (&coordinates)[rank],
                             unsigned short mask, CUDA_ON_CPU_HERE) {
    cuda_on_cpu_tensor_multicast(tile, map, reinterpret_cast<uint64_t*>(barrier), rank, coordinates, mask, file, line);
}

}  // namespace cuda_on_cpu
