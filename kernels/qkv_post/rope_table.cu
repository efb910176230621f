#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/qkv_post/rope_table.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;

__global__ void __launch_bounds__(kThreads) RopeTableKernel(const RopeTableArgs args) {
  const int half = args.head_dim / 2;
  const int64_t count = int64_t{args.positions} * half;
  const int64_t step = int64_t{gridDim.x} * kThreads;
  for (int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x; i < count; i += step) {
    const float angle = __fmul_rn(args.frequencies[i % half], static_cast<float>(i / half));
    double sine, cosine;
    sincos(static_cast<double>(angle), &sine, &cosine);
    reinterpret_cast<float2*>(args.table)[i] =
        make_float2(static_cast<float>(cosine), static_cast<float>(sine));
  }
}

}  // namespace

absl::Status FillRopeTable(const RopeTableArgs& args) {
  if (args.frequencies == nullptr || args.table == nullptr || args.positions < 0 ||
      args.head_dim < 2 || args.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(absl::StrCat("rope table of ", args.positions,
                                                   " positions, head_dim ", args.head_dim,
                                                   "; head_dim must be even, pointers given"));
  }
  const int64_t count = int64_t{args.positions} * (args.head_dim / 2);
  const int64_t blocks = (count + kThreads - 1) / kThreads;
  const LaunchShape shape = {dim3(static_cast<unsigned>(blocks < 4096 ? blocks : 4096)),
                             dim3(kThreads), 0, args.stream};
  return Launch("rope_table", shape, RopeTableKernel, args);
}

}  // namespace conclave
