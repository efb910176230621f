#include <algorithm>

#include "kernels/add_norm/add_norm.h"
#include "kernels/add_norm/pending.cuh"
#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"

namespace conclave {
namespace {

// Below this many tokens a block's time is its latency, and it gets all the threads it can use.
constexpr int kFewTokens = 264;

__device__ __forceinline__ float SquaresOf(const float4& v) {
  return v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
}

// A sum over the block, the same in every thread; `scratch` [32].
__device__ __forceinline__ float BlockSum(float value, float* scratch) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  const int lane = threadIdx.x % 32;
  if (lane == 0) scratch[threadIdx.x / 32] = value;
  __syncthreads();
  value = lane < blockDim.x / 32 ? scratch[lane] : 0.0f;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) {
    value += __shfl_xor_sync(0xffffffffu, value, offset);
  }
  return value;
}

// How many quads a thread has, and how many pending rows are under way together. What hides the
// latency is blocks for many tokens, loads for few. kBlocksMin: of a processor, bounds registers.
struct Few {
  static constexpr int kQuads = 1, kBatch = 8, kThreadsMax = 1024, kBlocksMin = 1;
};
struct ManySlabs {
  static constexpr int kQuads = 2, kBatch = 2, kThreadsMax = 512, kBlocksMin = 3;
};
struct ManyRows {
  static constexpr int kQuads = 4, kBatch = 4, kThreadsMax = 256, kBlocksMin = 3;
};
struct ManyFloatRows {
  static constexpr int kQuads = 4, kBatch = 2, kThreadsMax = 256, kBlocksMin = 3;
};
struct Wide {
  static constexpr int kQuads = 4, kBatch = 2, kThreadsMax = 1024, kBlocksMin = 1;
};

// A block is a token.
template <typename Cut, PendingKind kKind>
__global__ void __launch_bounds__(Cut::kThreadsMax, Cut::kBlocksMin)
    AddNormKernel(const __grid_constant__ AddNormArgs args) {
  constexpr int kQuads = Cut::kQuads;
  __shared__ float scratch[32];
  const int64_t token = blockIdx.x;
  const QuadRange quads = {static_cast<int>(threadIdx.x), static_cast<int>(blockDim.x),
                           args.hidden / 4};
  float4 weight[kQuads];
  if (kQuads == 1 && args.normed != nullptr) LoadQuads(args.norm_weight, quads, weight);
  GridDependencyWait();
  LaunchDependents();
  float4 v[kQuads];
  LoadQuads(args.residual_in + token * args.hidden, quads, v);
  if constexpr (kKind != PendingKind::kNone) {
    AddPendingOf<kKind, kQuads, Cut::kBatch>(args.pending, token, quads, v);
  }
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kQuads; ++c) {
    const int q = quads.first + c * quads.step;
    squares += SquaresOf(v[c]);
    if (q < quads.end) {
      reinterpret_cast<float4*>(args.residual_out + token * args.hidden)[q] = v[c];
    }
  }
  if (args.normed == nullptr) return;
  const float mean = BlockSum(squares, scratch) / static_cast<float>(args.hidden);
  const float scale = 1.0f / sqrtf(mean + args.epsilon);
  if (kQuads > 1) LoadQuads(args.norm_weight, quads, weight);
  auto* normed =
      reinterpret_cast<uint2*>(static_cast<__nv_bfloat16*>(args.normed) + token * args.hidden);
#pragma unroll
  for (int c = 0; c < kQuads; ++c) {
    const int q = quads.first + c * quads.step;
    if (q >= quads.end) continue;
    normed[q] = {PackBf16(v[c].x * scale * weight[c].x, v[c].y * scale * weight[c].y),
                 PackBf16(v[c].z * scale * weight[c].z, v[c].w * scale * weight[c].w)};
  }
}

template <typename Cut, PendingKind kKind>
absl::Status LaunchCut(const AddNormArgs& args, CudaStream stream, bool dependent) {
  constexpr int kWarpValues = Cut::kQuads * 4 * 32;
  const int threads = (args.hidden + kWarpValues - 1) / kWarpValues * 32;
  const LaunchShape shape = {
      .grid = dim3(args.tokens), .block = dim3(threads), .stream = stream, .dependent = dependent};
  return Launch("add_norm", shape, AddNormKernel<Cut, kKind>, args);
}

template <typename Many, PendingKind kKind>
absl::Status LaunchOf(const AddNormArgs& args, CudaStream stream, bool dependent) {
  if (args.hidden > 4096) return LaunchCut<Wide, kKind>(args, stream, dependent);
  if (args.tokens <= kFewTokens) return LaunchCut<Few, kKind>(args, stream, dependent);
  return LaunchCut<Many, kKind>(args, stream, dependent);
}

}  // namespace

absl::Status CheckAddNormArgs(const AddNormArgs& args) {
  const PendingSum& pending = args.pending;
  if (args.tokens < 0 || args.hidden <= 0 || args.hidden % 8 != 0 || args.hidden > 16384) {
    return absl::InvalidArgumentError(
        absl::StrCat("add_norm serves rows of a multiple of 8, at most 16384, values; asked for ",
                     args.tokens, " x ", args.hidden));
  }
  if (pending.kind == PendingKind::kNone) return absl::OkStatus();
  const bool rows = pending.kind != PendingKind::kSlabs;
  if (pending.count <= 0 || pending.row_stride < args.hidden || pending.row_stride % 4 != 0 ||
      pending.slab_stride % 4 != 0 || (rows && pending.gate_weights == nullptr)) {
    return absl::InvalidArgumentError(
        absl::StrCat("add_norm of ", pending.count, " pending with rows of ", pending.row_stride,
                     ": strides are multiples of 4 and hold a row of ", args.hidden,
                     "; rows of experts come with their weights"));
  }
  return absl::OkStatus();
}

absl::Status AddNorm(const AddNormArgs& args, CudaStream stream, bool dependent) {
  if (const absl::Status status = CheckAddNormArgs(args); !status.ok()) return status;
  switch (args.pending.kind) {
    case PendingKind::kNone:
      return LaunchOf<ManySlabs, PendingKind::kNone>(args, stream, dependent);
    case PendingKind::kSlabs:
      return LaunchOf<ManySlabs, PendingKind::kSlabs>(args, stream, dependent);
    case PendingKind::kRowsF32:
      return LaunchOf<ManyFloatRows, PendingKind::kRowsF32>(args, stream, dependent);
    case PendingKind::kRowsBf16:
      return LaunchOf<ManyRows, PendingKind::kRowsBf16>(args, stream, dependent);
  }
  return absl::InvalidArgumentError("add_norm of an unknown kind of pending sum");
}

}  // namespace conclave
