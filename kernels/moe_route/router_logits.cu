#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_checks.h"

namespace conclave {
namespace {

// A block has 64 tokens x 128 experts, a warp 32 x 32 of them. Tiles of 64 inputs go through a ring
// in shared memory; rows there are 128 bytes with the 16-byte chunk c of row r at c ^ (r % 8), as
// WeightView tiles already stand.
constexpr int kThreads = 256;
constexpr int kTokens = 64;
constexpr int kExperts = 128;
constexpr int kStages = 4;
constexpr int kXBytes = kTokens * 128;
constexpr int kStageBytes = kXBytes + kExperts * 128;

// Copies 16 bytes, or zeros.
__device__ __forceinline__ void AsyncCopy(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

__device__ __forceinline__ void LoadWeights(const RouterLogitsArgs& args, int tile,
                                            uint8_t* stage) {
  const WeightView& router = args.router;
#pragma unroll
  for (int j = 0; j < kExperts * 8 / kThreads; ++j) {
    const int i = threadIdx.x + j * kThreads;
    const int row = blockIdx.y * (kExperts / kTileOutputs) + i / 128;
    const bool valid = row < router.output_tiles();
    const auto* from = static_cast<const uint8_t*>(router.data) +
                       (valid ? (int64_t{row} * router.input_tiles() + tile) * 2048 : 0) +
                       i % 128 * 16;
    AsyncCopy(stage + kXBytes + i * 16, from, valid);
  }
}

__device__ __forceinline__ void LoadRows(const RouterLogitsArgs& args, int tile, uint8_t* stage) {
  const auto* x = static_cast<const __nv_bfloat16*>(args.x);
#pragma unroll
  for (int j = 0; j < kTokens * 8 / kThreads; ++j) {
    const int i = threadIdx.x + j * kThreads;
    const int row = i / 8, chunk = i % 8, k = tile * kTileInputs + chunk * 8;
    const int64_t token = int64_t{blockIdx.x} * kTokens + row;
    const bool valid = token < args.tokens && k < args.router.inputs;
    AsyncCopy(stage + row * 128 + (chunk ^ (row % 8)) * 16,
              x + (valid ? token * args.x_stride + k : 0), valid);
  }
}

// Adds a tile's product to the warp's 32 x 32.
__device__ __forceinline__ void MultiplyTile(const uint8_t* stage, float (&sums)[2][4][4]) {
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int token = warp % 2 * 32 + lane % 16;
  const int expert = warp / 2 * 32 + lane / 16 * 8 + lane % 8;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    uint32_t a[2][4], b[2][4];
#pragma unroll
    for (int m = 0; m < 2; ++m) {
      const int row = token + m * 16, chunk = k * 2 + lane / 16;
      LoadMatrix4(stage + row * 128 + (chunk ^ (row % 8)) * 16, a[m]);
    }
#pragma unroll
    for (int n = 0; n < 2; ++n) {
      const int row = expert + n * 16, chunk = k * 2 + lane / 8 % 2;
      LoadMatrix4(stage + kXBytes + row * 128 + (chunk ^ (row % 8)) * 16, b[n]);
    }
#pragma unroll
    for (int m = 0; m < 2; ++m) {
#pragma unroll
      for (int n = 0; n < 4; ++n) {
        MatrixMultiplyAdd(sums[m][n], a[m], b[n / 2][n % 2 * 2], b[n / 2][n % 2 * 2 + 1]);
      }
    }
  }
}

__device__ __forceinline__ void StorePair(const RouterLogitsArgs& args, int64_t token, int expert,
                                          float2 pair) {
  if (token >= args.tokens || expert >= args.router.outputs) return;
  float* to = args.logits + token * args.logits_stride + expert;
  if (expert + 1 < args.router.outputs) {
    *reinterpret_cast<float2*>(to) = pair;
  } else {
    *to = pair.x;
  }
}

__global__ void __launch_bounds__(kThreads, 2)
    RouterKernel(const __grid_constant__ RouterLogitsArgs args) {
  extern __shared__ __align__(128) uint8_t ring[];
  const int tiles = args.router.input_tiles();
  for (int s = 0; s < kStages - 1 && s < tiles; ++s) LoadWeights(args, s, ring + s * kStageBytes);
  GridDependencyWait();
  LaunchDependents();
  for (int s = 0; s < kStages - 1; ++s) {
    if (s < tiles) LoadRows(args, s, ring + s * kStageBytes);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  float sums[2][4][4] = {};
  for (int tile = 0; tile < tiles; ++tile) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // the tile is here, and the one before it is multiplied
    const int ahead = tile + kStages - 1;
    if (ahead < tiles) {
      LoadWeights(args, ahead, ring + ahead % kStages * kStageBytes);
      LoadRows(args, ahead, ring + ahead % kStages * kStageBytes);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    MultiplyTile(ring + tile % kStages * kStageBytes, sums);
  }
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
#pragma unroll
  for (int m = 0; m < 2; ++m) {
#pragma unroll
    for (int n = 0; n < 4; ++n) {
      const int64_t token = int64_t{blockIdx.x} * kTokens + warp % 2 * 32 + m * 16 + lane / 4;
      const int expert = blockIdx.y * kExperts + warp / 2 * 32 + n * 8 + lane % 4 * 2;
      StorePair(args, token, expert, {sums[m][n][0], sums[m][n][1]});
      StorePair(args, token + 8, expert, {sums[m][n][2], sums[m][n][3]});
    }
  }
}

}  // namespace

absl::Status RouterLogits(const RouterLogitsArgs& args, CudaStream stream, bool dependent) {
  if (const absl::Status status = CheckRouter(args.router); !status.ok()) return status;
  if (args.tokens < 0 || args.x_stride < args.router.inputs || args.x_stride % 8 != 0 ||
      args.logits_stride < args.router.outputs || args.logits_stride % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("router of ", args.router.outputs, " x ", args.router.inputs, " over ",
                     args.tokens, " rows of stride ", args.x_stride, " to logits of stride ",
                     args.logits_stride, ": strides hold a row, in eights and twos"));
  }
  const LaunchShape shape = {.grid = dim3((args.tokens + kTokens - 1) / kTokens,
                                          (args.router.outputs + kExperts - 1) / kExperts),
                             .block = dim3(kThreads),
                             .shared_bytes = kStages * kStageBytes,
                             .stream = stream,
                             .dependent = dependent};
  return Launch("router", shape, RouterKernel, args);
}

}  // namespace conclave
