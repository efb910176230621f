#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe_route/moe_route.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;
constexpr int kBatch = 8;

// A thread copies 16 bytes of a token's row to each of the rows that serve it.
__global__ void __launch_bounds__(kThreads)
    PermuteKernel(const __grid_constant__ PermuteArgs args) {
  GridDependencyWait();
  LaunchDependents();
  const int chunks = args.hidden / 8;
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= int64_t{args.tokens} * chunks) return;
  const int token = static_cast<int>(i / chunks);
  const int chunk = static_cast<int>(i - int64_t{token} * chunks);
  const uint4 v = __ldcg(static_cast<const uint4*>(args.x) + i);
  auto* to = static_cast<uint4*>(args.x_perm) + chunk;
  const int32_t* row_of_entry = args.row_of_entry + int64_t{token} * args.top_k;
  for (int first = 0; first < args.top_k; first += kBatch) {
    int row[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      row[b] = first + b < args.top_k ? __ldcg(row_of_entry + first + b) : -1;
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (row[b] >= 0) to[int64_t{row[b]} * chunks] = v;
    }
  }
}

}  // namespace

absl::Status PermuteRows(const PermuteArgs& args, CudaStream stream, bool dependent) {
  if (args.tokens < 0 || args.hidden <= 0 || args.hidden % 8 != 0 || args.top_k <= 0) {
    return absl::InvalidArgumentError(absl::StrCat("permuting ", args.tokens, " rows of ",
                                                   args.hidden, " values ", args.top_k,
                                                   " times: rows are multiples of 8"));
  }
  const int64_t copies = int64_t{args.tokens} * (args.hidden / 8);
  const LaunchShape shape = {
      .grid = dim3(static_cast<unsigned>((copies + kThreads - 1) / kThreads)),
      .block = dim3(kThreads),
      .stream = stream,
      .dependent = dependent};
  return Launch("permute", shape, PermuteKernel, args);
}

}  // namespace conclave
