// Thread block clusters (PTX ISA 9.7.13.4 and 9.7.9.23): rank, barrier, and stores into the shared
// memory of another block of the cluster. A launch without clusters is a cluster of one block.
// Device code only.
#pragma once

#include <cstdint>

#include "kernels/cuda/ptx.cuh"

namespace conclave {

__device__ __forceinline__ uint32_t ClusterRank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// The two halves of a barrier of all threads of the cluster. What was written before the arrival is
// visible after the wait.
__device__ __forceinline__ void ClusterArrive() {
  asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
}
__device__ __forceinline__ void ClusterWait() {
  asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

// Address of `p`, of this block's shared memory, in the block of that rank.
__device__ __forceinline__ uint32_t RemoteAddress(const void* p, uint32_t rank) {
  uint32_t address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;"
               : "=r"(address)
               : "r"(SharedAddress(p)), "r"(rank));
  return address;
}
__device__ __forceinline__ void StoreRemote(uint32_t address, float value) {
  asm volatile("st.shared::cluster.f32 [%0], %1;" ::"r"(address), "f"(value) : "memory");
}
__device__ __forceinline__ void StoreRemote(uint32_t address, double value) {
  asm volatile("st.shared::cluster.f64 [%0], %1;" ::"r"(address), "d"(value) : "memory");
}

}  // namespace conclave
