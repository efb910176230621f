#include "absl/strings/str_cat.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/slab_rows/slab_rows.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;

// A thread takes 8 columns of a row.
__global__ void __launch_bounds__(kThreads) SumSlabsKernel(SumSlabsArgs args) {
  GridDependencyWait();
  LaunchDependents();
  const int64_t chunks = args.columns / 8;
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= args.rows * chunks) return;
  const int64_t offset = i / chunks * args.row_stride + i % chunks * 8;
  float sum[8] = {};
  for (int s = 0; s < args.count; ++s) {
    const float4* from =
        reinterpret_cast<const float4*>(args.slabs + s * args.slab_stride + offset);
    const float4 low = from[0], high = from[1];
    sum[0] += low.x;
    sum[1] += low.y;
    sum[2] += low.z;
    sum[3] += low.w;
    sum[4] += high.x;
    sum[5] += high.y;
    sum[6] += high.z;
    sum[7] += high.w;
  }
  uint4 packed;
  packed.x = PackBf16(sum[0], sum[1]);
  packed.y = PackBf16(sum[2], sum[3]);
  packed.z = PackBf16(sum[4], sum[5]);
  packed.w = PackBf16(sum[6], sum[7]);
  *reinterpret_cast<uint4*>(static_cast<__nv_bfloat16*>(args.out) + offset) = packed;
}

__global__ void __launch_bounds__(kThreads) GatherKernel(GatherBf16Args args) {
  GridDependencyWait();
  LaunchDependents();
  const int64_t chunks = args.columns / 8;
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= args.rows * chunks) return;
  const int64_t from = args.index[i / chunks] * chunks + i % chunks;
  static_cast<uint4*>(args.out)[i] = static_cast<const uint4*>(args.x)[from];
}

absl::Status CheckColumns(const char* what, int64_t columns) {
  if (columns > 0 && columns % 8 == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": ", columns, " columns; they must be a multiple of 8"));
}

LaunchShape ShapeOf(int64_t threads, CudaStream stream, bool dependent) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((threads + kThreads - 1) / kThreads));
  shape.block = dim3(kThreads);
  shape.stream = stream;
  shape.dependent = dependent;
  return shape;
}

}  // namespace

absl::Status SumSlabs(const SumSlabsArgs& args, CudaStream stream, bool dependent) {
  if (absl::Status status = CheckColumns("sum_slabs", args.columns); !status.ok()) return status;
  return Launch("sum_slabs", ShapeOf(args.rows * (args.columns / 8), stream, dependent),
                SumSlabsKernel, args);
}

absl::Status GatherBf16(const GatherBf16Args& args, CudaStream stream, bool dependent) {
  if (absl::Status status = CheckColumns("gather_bf16", args.columns); !status.ok()) return status;
  return Launch("gather_bf16", ShapeOf(args.rows * (args.columns / 8), stream, dependent),
                GatherKernel, args);
}

}  // namespace conclave
