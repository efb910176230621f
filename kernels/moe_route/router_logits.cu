#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_checks.h"

namespace conclave {
namespace {

// A block has 64 tokens x 128 experts. Two groups of 8 warps take the tiles of 64 inputs in turn,
// each through a ring of its own in shared memory, and add up at the end: one group's latency is
// the other's work. A warp has 32 x 32 of the logits. Rows in shared memory are 128 bytes with the
// 16-byte chunk c of row r at c ^ (r % 8), as WeightView tiles already stand.
constexpr int kGroups = 2;
constexpr int kGroupThreads = 256;
constexpr int kThreads = kGroups * kGroupThreads;
constexpr int kTokens = 64;
constexpr int kExperts = 128;
constexpr int kStages = 4;
constexpr int kXBytes = kTokens * 128;
constexpr int kStageBytes = kXBytes + kExperts * 128;
constexpr int kRingBytes = kStages * kStageBytes;
constexpr int kWeightCopies = kExperts * 8 / kGroupThreads;
constexpr int kRowCopies = kTokens * 8 / kGroupThreads;

// Copies 16 bytes, or zeros.
__device__ __forceinline__ void AsyncCopy(void* to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(SharedAddress(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}

// What a thread of a group copies of each tile.
class TileLoader {
 public:
  __device__ TileLoader(const RouterLogitsArgs& args, int thread) : inputs_(args.router.inputs) {
#pragma unroll
    for (int j = 0; j < kWeightCopies; ++j) {
      const int i = thread + j * kGroupThreads;
      const int row = blockIdx.y * (kExperts / kTileOutputs) + i / 128;
      weight_given_[j] = row < args.router.output_tiles();
      weight_[j] = static_cast<const uint8_t*>(args.router.data) + i % 128 * 16 +
                   (weight_given_[j] ? int64_t{row} * args.router.input_tiles() * 2048 : 0);
      weight_to_[j] = kXBytes + i * 16;
    }
#pragma unroll
    for (int j = 0; j < kRowCopies; ++j) {
      const int i = thread + j * kGroupThreads;
      const int row = i / 8, chunk = i % 8;
      const int64_t token = int64_t{blockIdx.x} * kTokens + row;
      row_given_[j] = token < args.tokens;
      row_[j] = static_cast<const __nv_bfloat16*>(args.x) +
                (row_given_[j] ? token * args.x_stride : 0) + chunk * 8;
      row_to_[j] = row * 128 + (chunk ^ (row % 8)) * 16;
    }
    chunk_ = thread % 8 * 8;
  }
  __device__ void LoadWeights(int tile, uint8_t* stage) const {
#pragma unroll
    for (int j = 0; j < kWeightCopies; ++j) {
      AsyncCopy(stage + weight_to_[j], weight_[j] + tile * 2048, weight_given_[j]);
    }
  }
  __device__ void LoadRows(int tile, uint8_t* stage) const {
    const bool inside = tile * kTileInputs + chunk_ < inputs_;
#pragma unroll
    for (int j = 0; j < kRowCopies; ++j) {
      AsyncCopy(stage + row_to_[j], row_[j] + (inside ? tile * kTileInputs : 0),
                row_given_[j] && inside);
    }
  }

 private:
  const uint8_t* weight_[kWeightCopies];
  const __nv_bfloat16* row_[kRowCopies];
  int weight_to_[kWeightCopies], row_to_[kRowCopies];
  bool weight_given_[kWeightCopies], row_given_[kRowCopies];
  int inputs_, chunk_;
};

// Adds a tile's product to the warp's 32 x 32.
__device__ __forceinline__ void MultiplyTile(const uint8_t* stage, int warp,
                                             float (&sums)[2][4][4]) {
  const int lane = threadIdx.x % 32;
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

// The other groups' sums come to the first, in order.
__device__ __forceinline__ void AddGroups(int group, int thread, uint8_t* ring,
                                          float (&sums)[2][4][4]) {
  float* own = &sums[0][0][0];
  for (int g = 1; g < kGroups; ++g) {
    __syncthreads();
    auto* shared = reinterpret_cast<float*>(ring);
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (group == g) shared[i * kGroupThreads + thread] = own[i];
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 32; ++i) {
      if (group == 0) own[i] += shared[i * kGroupThreads + thread];
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    RouterKernel(const __grid_constant__ RouterLogitsArgs args) {
  extern __shared__ __align__(128) uint8_t rings[];
  const int group = threadIdx.x / kGroupThreads, thread = threadIdx.x % kGroupThreads;
  const int lane = thread % 32, warp = thread / 32, tiles = args.router.input_tiles();
  uint8_t* const ring = rings + group * kRingBytes;
  const TileLoader loader(args, thread);
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    const int tile = group + s * kGroups;
    if (tile < tiles) loader.LoadWeights(tile, ring + s * kStageBytes);
  }
  GridDependencyWait();
  LaunchDependents();
#pragma unroll
  for (int s = 0; s < kStages - 1; ++s) {
    const int tile = group + s * kGroups;
    if (tile < tiles) loader.LoadRows(tile, ring + s * kStageBytes);
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  float sums[2][4][4] = {};
  int stage = 0, free_stage = kStages - 1;
  for (int tile = group; tile < tiles; tile += kGroups) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    // The group's: the tile is here, and the one before it is multiplied.
    asm volatile("bar.sync %0, %1;" ::"r"(group + 1), "n"(kGroupThreads) : "memory");
    const int ahead = tile + (kStages - 1) * kGroups;
    if (ahead < tiles) {
      loader.LoadWeights(ahead, ring + free_stage * kStageBytes);
      loader.LoadRows(ahead, ring + free_stage * kStageBytes);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
    MultiplyTile(ring + stage * kStageBytes, warp, sums);
    free_stage = stage;
    stage = stage + 1 == kStages ? 0 : stage + 1;
  }
  AddGroups(group, thread, rings, sums);
  if (group != 0) return;
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
                             .shared_bytes = kGroups * kRingBytes,
                             .stream = stream,
                             .dependent = dependent};
  return Launch("router", shape, RouterKernel, args);
}

}  // namespace conclave
