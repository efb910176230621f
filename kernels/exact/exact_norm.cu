// A row has a block of sixteen lanes for each slice: lane l adds the squares of elements l, l + 16,
// ... of its slice, and owns these elements throughout. A head of rope has a half-warp.
#include <cuda_runtime.h>

#include "comm/base/reduction.h"
#include "kernels/cuda/launch.cuh"
#include "kernels/exact/exact_math.cuh"
#include "kernels/exact/exact_norm.h"

namespace conclave {
namespace {

constexpr int kHalf = 16;
constexpr int kRowThreads = kReductionSlices * kHalf;
constexpr int kHeadDimMax = 256;
constexpr int kHeadThreads = 128;

// The sum of squares of a row in `slices` slices, known to every thread of the block. `prepare`
// makes element k before it is read; the thread that makes it is the only one to read it here.
template <typename Prepare>
__device__ float RowSquares(const float* x, int64_t cols, int slices, Prepare prepare) {
  __shared__ float parts[kReductionSlices];
  const int slice = static_cast<int>(threadIdx.x) / kHalf;
  float sum = 0.0f;
  if (slice < slices) {
    const int64_t end = (slice + 1) * cols / slices;
    for (int64_t k = slice * cols / slices + threadIdx.x % kHalf; k < end; k += kHalf) {
      const float v = prepare(k, x[k]);
      sum = __fmaf_rn(v, v, sum);
    }
  }
  sum = exact::SumOfLanes16(sum);
  if (slice < slices && threadIdx.x % kHalf == 0) parts[slice] = sum;
  __syncthreads();
  return exact::TreeOfParts(parts, 1, slices);
}

__global__ void __launch_bounds__(kRowThreads) RmsNormKernel(const ExactNormArgs a) {
  const int64_t first = blockIdx.x * a.cols;
  float* x = a.x + first;
  const auto add = [&](int64_t k, float v) {
    if (a.delta == nullptr) return v;
    v = __fadd_rn(v, a.delta[first + k]);
    x[k] = v;
    return v;
  };
  const float sum = RowSquares(x, a.cols, kReductionSlices, add);
  const float scale = exact::RmsScale(sum, static_cast<float>(a.cols), a.epsilon);
  // After the barrier in RowSquares all of the row is there.
  for (int64_t k = threadIdx.x; k < a.cols; k += kRowThreads) {
    a.y[first + k] = __fmul_rn(__fmul_rn(x[k], scale), a.weight[k]);
  }
}

__global__ void __launch_bounds__(kRowThreads)
    SumSquaresKernel(const ExactRows x, const int slices, float* sums) {
  const auto same = [](int64_t, float v) { return v; };
  const float sum = RowSquares(x.data + blockIdx.x * x.stride, x.cols, slices, same);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(kRowThreads) ScaleKernel(const ExactScaleArgs a) {
  float* x = a.x.data + blockIdx.x * a.x.stride;
  const float scale = exact::RmsScale(a.sums[blockIdx.x], static_cast<float>(a.width), a.epsilon);
  for (int64_t k = threadIdx.x; k < a.x.cols; k += kRowThreads) {
    x[k] = __fmul_rn(__fmul_rn(x[k], scale), a.weight[k]);
  }
}

// Half-warp h of the grid has head h % heads of row h / heads.
__global__ void __launch_bounds__(kHeadThreads)
    NormRopeKernel(const ExactRopeArgs a, const int heads) {
  const int lane = static_cast<int>(threadIdx.x) % kHalf;
  const int64_t index = (static_cast<int64_t>(blockIdx.x) * kHeadThreads + threadIdx.x) / kHalf;
  const bool valid = index < a.x.rows * heads;  // the whole warp takes part in the sum
  const int64_t row = valid ? index / heads : 0;
  float* x = a.x.data + row * a.x.stride + index % heads * a.head_dim;
  float inverse = 0.0f;
  if (a.norm_weight != nullptr) {
    float squares = 0.0f;
    for (int i = lane; valid && i < a.head_dim; i += kHalf) {
      squares = __fmaf_rn(x[i], x[i], squares);
    }
    squares = exact::SumOfLanes16(squares);
    inverse = exact::RmsScale(squares, static_cast<float>(a.head_dim), a.norm_epsilon);
  }
  if (!valid) return;
  const auto normed = [&](int i) {
    if (a.norm_weight == nullptr) return x[i];
    return __fmul_rn(a.norm_weight[i], __fmul_rn(x[i], inverse));
  };
  const int half = a.head_dim / 2;
  for (int i = lane; i < half; i += kHalf) {
    const float p = normed(i), q = normed(half + i);
    const float c = a.cosine[row * half + i], s = a.sine[row * half + i];
    x[i] = __fsub_rn(__fmul_rn(p, c), __fmul_rn(q, s));
    x[half + i] = __fadd_rn(__fmul_rn(q, c), __fmul_rn(p, s));
  }
}

LaunchShape RowShape(int64_t rows, CudaStream stream) {
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(rows));
  shape.block = dim3(kRowThreads);
  shape.stream = stream;
  return shape;
}

absl::Status CheckRows(const char* what, int64_t rows, int64_t cols) {
  if (rows >= 0 && rows <= INT32_MAX && cols > 0) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, ": rows [", rows, ", ", cols, "]"));
}

}  // namespace

absl::Status ExactRmsNorm(const ExactNormArgs& args, CudaStream stream) {
  const absl::Status rows = CheckRows("exact rms norm", args.rows, args.cols);
  if (!rows.ok()) return rows;
  return Launch("exact rms norm", RowShape(args.rows, stream), RmsNormKernel, args);
}

absl::Status ExactSumSquares(ExactRows x, int slices, float* sums, CudaStream stream) {
  const absl::Status rows = CheckRows("exact sum of squares", x.rows, x.cols);
  if (!rows.ok()) return rows;
  if (slices != 1 && slices != 2 && slices != 4 && slices != 8) {
    return absl::InvalidArgumentError(absl::StrCat("exact sum of squares: ", slices, " slices"));
  }
  return Launch("exact sum of squares", RowShape(x.rows, stream), SumSquaresKernel, x, slices,
                sums);
}

absl::Status ExactScaleByRms(const ExactScaleArgs& args, CudaStream stream) {
  const absl::Status rows = CheckRows("exact scale", args.x.rows, args.x.cols);
  if (!rows.ok()) return rows;
  return Launch("exact scale", RowShape(args.x.rows, stream), ScaleKernel, args);
}

absl::Status ExactNormRope(const ExactRopeArgs& args, CudaStream stream) {
  if (args.head_dim <= 0 || args.head_dim % 2 != 0 || args.head_dim > kHeadDimMax ||
      args.x.cols % args.head_dim != 0 || args.x.rows < 0) {
    return absl::InvalidArgumentError(absl::StrCat("exact rope: rows [", args.x.rows, ", ",
                                                   args.x.cols, "] of heads of ", args.head_dim));
  }
  const int heads = static_cast<int>(args.x.cols / args.head_dim);
  const int64_t threads = args.x.rows * heads * kHalf;
  const int64_t blocks = (threads + kHeadThreads - 1) / kHeadThreads;
  if (blocks > INT32_MAX) return absl::InvalidArgumentError("exact rope: too many rows");
  LaunchShape shape = RowShape(blocks, stream);
  shape.block = dim3(kHeadThreads);
  return Launch("exact rope", shape, NormRopeKernel, args, heads);
}

}  // namespace conclave
