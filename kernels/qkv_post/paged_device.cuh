// Device code that the attention kernels share: rows of the paged cache, asynchronous 16-byte
// copies, reductions of four lanes, the rotation of a pair. Device code only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/qkv_post/gpu_kv.h"

namespace conclave {

// The cache as rows of head_dim: the row of K of a slot of a page; V's is VRowOffset further.
__device__ __forceinline__ int CacheRow(const GpuKvLayer& cache, int page, int kv_head, int slot) {
  return (page * 2 * cache.kv_heads + kv_head) * cache.page_tokens + slot;
}
__device__ __forceinline__ int VRowOffset(const GpuKvLayer& cache) {
  return cache.kv_heads * cache.page_tokens;
}
// The row of K of a position of a sequence whose pages stand at `pages`.
__device__ __forceinline__ int PositionRow(const GpuKvLayer& cache, const int32_t* pages,
                                           int kv_head, int position) {
  const unsigned page = static_cast<unsigned>(position) / static_cast<unsigned>(cache.page_tokens);
  return CacheRow(cache, __ldcg(pages + page), kv_head, position - page * cache.page_tokens);
}

// 16 bytes if `valid`, else zeros; `from` is an address that may be read either way.
__device__ __forceinline__ void CopyOrZero16(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void CopyCommit() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void CopyWait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// 2^x, 0 for -infinity.
__device__ __forceinline__ float Exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

// Over the four lanes that hold one row of a matrix fragment.
__device__ __forceinline__ float QuadMax(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float QuadSum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}
__device__ __forceinline__ float WarpSum(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x += __shfl_xor_sync(~0u, x, lane);
  return x;
}

// (a, b) := (a cos - b sin, b cos + a sin); the pair is (i, i + head_dim / 2) of a head.
__device__ __forceinline__ void RotatePair(float& a, float& b, float2 cos_sin) {
  const float rotated = a * cos_sin.x - b * cos_sin.y;
  b = b * cos_sin.x + a * cos_sin.y;
  a = rotated;
}

}  // namespace conclave
