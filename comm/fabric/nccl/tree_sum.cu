#include <algorithm>

#include "comm/fabric/nccl/tree_sum.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;
constexpr size_t kBlocksMax = 1024;  // each block strides over the rest
constexpr int kRegisterRows = 8;

// One thread an element: its column never meets another's, so the tree needs no synchronisation.
__global__ void TreeSumKernel(TreeSumRows rows, float* out) {
  const size_t step = static_cast<size_t>(gridDim.x) * blockDim.x;
  for (size_t k = static_cast<size_t>(blockIdx.x) * blockDim.x + threadIdx.x; k < rows.count;
       k += step) {
    float* column = rows.data + k;
    if (rows.rows <= kRegisterRows) {
      float values[kRegisterRows];
#pragma unroll
      for (int i = 0; i < kRegisterRows; ++i) {
        if (i < rows.rows) values[i] = column[i * rows.count];
      }
#pragma unroll
      for (int stride = 1; stride < kRegisterRows; stride *= 2) {
#pragma unroll
        for (int i = 0; i + stride < kRegisterRows; i += 2 * stride) {
          if (i + stride < rows.rows) values[i] = values[i] + values[i + stride];
        }
      }
      out[k] = values[0];
      continue;
    }
    for (int stride = 1; stride < rows.rows; stride *= 2) {
      for (int i = 0; i + stride < rows.rows; i += 2 * stride) {
        column[i * rows.count] += column[(i + stride) * rows.count];
      }
    }
    out[k] = column[0];
  }
}

}  // namespace

int LaunchTreeSum(const TreeSumRows& rows, float* out, CudaStream stream) {
  if (rows.count == 0 || rows.rows <= 0) return cudaSuccess;
  const size_t blocks = std::min(kBlocksMax, (rows.count + kThreads - 1) / kThreads);
  TreeSumKernel<<<static_cast<unsigned>(blocks), kThreads, 0, stream>>>(rows, out);
  return cudaGetLastError();
}

}  // namespace conclave
