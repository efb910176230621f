#include <cuda_runtime.h>

#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/exact/exact_math.cuh"
#include "kernels/exact/exact_route.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;
constexpr int kGateWarps = 4;
constexpr uint32_t kAllLanes = 0xffffffffu;

// ---- gate, a warp for a token

// The place of an expert in the order of choice: larger keys first, then lower experts. NaN counts
// as the lowest.
struct Choice {
  float key = -INFINITY;
  int expert = INT32_MAX;

  __device__ bool Before(const Choice& other) const {
    return key > other.key || (key == other.key && expert < other.expert);
  }
};

// The first expert in order that comes after `previous`; every lane gets it.
__device__ Choice NextChoice(const float* logits, int experts, const Choice& previous) {
  Choice best;
  for (int e = static_cast<int>(threadIdx.x % 32); e < experts; e += 32) {
    const Choice candidate = {isnan(logits[e]) ? -INFINITY : logits[e], e};
    if (previous.Before(candidate) && candidate.Before(best)) best = candidate;
  }
#pragma unroll
  for (int step = 16; step >= 1; step /= 2) {
    const Choice other = {__shfl_xor_sync(kAllLanes, best.key, step),
                          __shfl_xor_sync(kAllLanes, best.expert, step)};
    if (other.Before(best)) best = other;
  }
  return best;
}

// ExpSum of kernels/moe_gate: sixteen lanes, a short last row filled with the lowest number.
__device__ float ExpSum(const float* logits, int experts, float max) {
  float sum = 0.0f;
  for (int i = static_cast<int>(threadIdx.x % 16); i < (experts + 15) / 16 * 16; i += 16) {
    const float logit = i < experts ? logits[i] : exact::kLowest;
    sum = __fadd_rn(sum, exact::FastExp(__fsub_rn(logit, max)));
  }
  return exact::SumOfLanes16(sum);
}

__global__ void __launch_bounds__(kGateWarps * 32) GateKernel(const ExactGateArgs a) {
  const int64_t token = static_cast<int64_t>(blockIdx.x) * kGateWarps + threadIdx.x / 32;
  if (token >= a.tokens) return;
  const int lane = static_cast<int>(threadIdx.x % 32);
  const float* logits = a.logits + token * a.logits_stride;
  Choice choice = {INFINITY, -1};
  int mine = 0;  // of lane k: choice k
  for (int k = 0; k < a.top_k; ++k) {
    choice = NextChoice(logits, a.experts, choice);
    if (lane == k) mine = choice.expert;
  }
  const float max = logits[__shfl_sync(kAllLanes, mine, 0)];
  const float sum = ExpSum(logits, a.experts, max);
  float weight = __fdiv_rn(exact::FastExp(__fsub_rn(logits[mine], max)), sum);
  if (a.normalize) {
    float total = 0.0f;
    for (int k = 0; k < a.top_k; ++k) {
      total = __fadd_rn(total, __shfl_sync(kAllLanes, weight, k));
    }
    weight = __fdiv_rn(weight, total);
  }
  if (lane >= a.top_k) return;
  a.chosen[token * a.top_k + lane] = mine;
  a.weights[token * a.top_k + lane] = weight;
}

// ---- rows, a block of columns for a thread block

__device__ __forceinline__ int64_t Column() {
  return static_cast<int64_t>(blockIdx.y) * kThreads + threadIdx.x;
}

__global__ void __launch_bounds__(kThreads) CombineKernel(const ExactCombineArgs a) {
  const int64_t token = blockIdx.x, column = Column();
  if (column >= a.out.cols) return;
  float sum = 0.0f;
  for (int c = 0; c < a.top_k; ++c) {
    const int64_t choice = token * a.top_k + c;
    const int32_t* rows = a.part_row + choice * a.slices;
    float parts[8];
#pragma unroll
    for (int s = 0; s < 8; ++s) {
      parts[s] = s < a.slices ? a.parts[rows[s] * a.parts_stride + column] : 0.0f;
    }
    sum = __fmaf_rn(a.weights[choice], exact::TreeOfParts(parts, 1, a.slices), sum);
  }
  float* out = a.out.data + token * a.out.stride + column;
  *out = __fadd_rn(*out, sum);
}

__global__ void __launch_bounds__(kThreads) GatherKernel(const ExactGatherArgs a) {
  const int64_t row = blockIdx.x, column = Column();
  if (column >= a.out.cols) return;
  a.out.data[row * a.out.stride + column] = a.x[a.index[row] * a.x_stride + column];
}

template <typename W>
__global__ void __launch_bounds__(kThreads) EmbedKernel(const ExactEmbedArgs a) {
  const int64_t token = blockIdx.x, column = Column();
  if (column >= a.table.inputs) return;
  const int64_t row = a.ids[token] - a.vocab_begin;
  float value = 0.0f;
  if (row >= 0 && row < a.table.outputs) {
    const int64_t index = TiledIndex(row, column, a.table.input_tiles(), sizeof(W));
    value = __fadd_rn(exact::Widen(static_cast<const W*>(a.table.data)[index]), 0.0f);
  }
  a.out[token * a.out_stride + column] = value;
}

__global__ void __launch_bounds__(kThreads)
    AddKernel(float* x, const float* delta, const int64_t count) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < count;
       i += step) {
    x[i] = __fadd_rn(x[i], delta[i]);
  }
}

LaunchShape RowsShape(int64_t rows, int64_t cols, CudaStream stream) {
  LaunchShape shape;
  shape.grid =
      dim3(static_cast<unsigned>(rows), static_cast<unsigned>((cols + kThreads - 1) / kThreads));
  shape.block = dim3(kThreads);
  shape.stream = stream;
  return shape;
}

absl::Status CheckRows(const char* what, int64_t rows, int64_t cols) {
  constexpr int64_t kColsMax = int64_t{65535} * kThreads;
  if (rows >= 0 && rows <= INT32_MAX && cols > 0 && cols <= kColsMax) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(what, ": rows [", rows, ", ", cols, "]"));
}

}  // namespace

absl::Status ExactGate(const ExactGateArgs& args, CudaStream stream) {
  if (args.top_k <= 0 || args.top_k > args.experts || args.top_k > kExactTopKMax ||
      args.tokens < 0) {
    return absl::InvalidArgumentError(absl::StrCat("exact gate: top ", args.top_k, " of ",
                                                   args.experts, " experts; at most ",
                                                   kExactTopKMax, " can be chosen"));
  }
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>((args.tokens + kGateWarps - 1) / kGateWarps));
  shape.block = dim3(kGateWarps * 32);
  shape.stream = stream;
  return Launch("exact gate", shape, GateKernel, args);
}

absl::Status ExactCombine(const ExactCombineArgs& args, CudaStream stream) {
  const absl::Status rows = CheckRows("exact combine", args.out.rows, args.out.cols);
  if (!rows.ok()) return rows;
  if (args.top_k <= 0 ||
      (args.slices != 1 && args.slices != 2 && args.slices != 4 && args.slices != 8)) {
    return absl::InvalidArgumentError(
        absl::StrCat("exact combine: ", args.slices, " slices of ", args.top_k, " choices"));
  }
  return Launch("exact combine", RowsShape(args.out.rows, args.out.cols, stream), CombineKernel,
                args);
}

absl::Status ExactGatherRows(const ExactGatherArgs& args, CudaStream stream) {
  const absl::Status rows = CheckRows("exact gather", args.out.rows, args.out.cols);
  if (!rows.ok()) return rows;
  return Launch("exact gather", RowsShape(args.out.rows, args.out.cols, stream), GatherKernel,
                args);
}

absl::Status ExactEmbed(const ExactEmbedArgs& args, CudaStream stream) {
  const absl::Status rows = CheckRows("exact embed", args.tokens, args.table.inputs);
  if (!rows.ok()) return rows;
  const LaunchShape shape = RowsShape(args.tokens, args.table.inputs, stream);
  switch (args.table.format) {
    case WeightFormat::kF32:
      return Launch("exact embed", shape, EmbedKernel<float>, args);
    case WeightFormat::kF16:
      return Launch("exact embed", shape, EmbedKernel<exact::F16>, args);
    case WeightFormat::kBf16:
      return Launch("exact embed", shape, EmbedKernel<exact::Bf16>, args);
    default:
      return absl::InvalidArgumentError("exact embed: the table must be bf16, f16 or f32");
  }
}

absl::Status ExactAdd(float* x, const float* delta, int64_t count, CudaStream stream) {
  if (count < 0) return absl::InvalidArgumentError(absl::StrCat("exact add: ", count, " values"));
  constexpr int64_t kBlocksMax = 1 << 16;
  LaunchShape shape;
  shape.grid = dim3(static_cast<unsigned>(std::min((count + kThreads - 1) / kThreads, kBlocksMax)));
  shape.block = dim3(kThreads);
  shape.stream = stream;
  return Launch("exact add", shape, AddKernel, x, delta, count);
}

}  // namespace conclave
