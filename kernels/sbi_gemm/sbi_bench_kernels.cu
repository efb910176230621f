#include "kernels/cuda/launch.cuh"
#include "kernels/sbi_gemm/sbi_bench_kernels.h"

namespace conclave {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 4;

__global__ void FillKernel(uint32_t* pool, int64_t words) {
  const int64_t step = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < words; i += step) {
    uint32_t bits = static_cast<uint32_t>(i) * 2654435761u;
    bits = (bits ^ (bits >> 15)) * 2246822519u;
    pool[i] = (bits & 0x80ff80ffu) | 0x3c003c00u;
  }
}

__global__ void __launch_bounds__(kThreads)
    ReadKernel(const uint4* pool, int64_t chunks, uint32_t* sums) {
  uint32_t sum = 0;
  const int64_t step = int64_t{gridDim.x} * kThreads * kUnroll;
  for (int64_t i = int64_t{blockIdx.x} * kThreads * kUnroll + threadIdx.x; i < chunks; i += step) {
    uint4 v[kUnroll];
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) {
      const int64_t at = i + u * kThreads;
      v[u] = at < chunks ? __ldcs(pool + at) : make_uint4(0, 0, 0, 0);
    }
#pragma unroll
    for (int u = 0; u < kUnroll; ++u) sum ^= v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
  }
  if (sum == 0x12345678u) sums[blockIdx.x] = sum;
}

}  // namespace

absl::Status FillPool(void* pool, int64_t bytes, CudaStream stream) {
  return Launch("fill pool", {.grid = dim3(132 * 8), .block = dim3(kThreads), .stream = stream},
                FillKernel, static_cast<uint32_t*>(pool), bytes / 4);
}

absl::Status ReadPool(const void* pool, int64_t bytes, uint32_t* sums, CudaStream stream) {
  return Launch("read pool",
                {.grid = dim3(kReadPoolSums), .block = dim3(kThreads), .stream = stream},
                ReadKernel, static_cast<const uint4*>(pool), bytes / 16, sums);
}

}  // namespace conclave
