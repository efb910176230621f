#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/moe_route/decode_gate.cuh"
#include "kernels/moe_route/route_checks.h"

namespace conclave {
namespace {

// A lane's part of a row of logits; past the last expert it may be whatever memory held.
template <int kPerLane>
__device__ __forceinline__ void AddLogits(const float* row, float (&logits)[kPerLane]) {
  row += threadIdx.x % 32 * kPerLane;
  if constexpr (kPerLane % 4 == 0) {
#pragma unroll
    for (int i = 0; i < kPerLane; i += 4) {
      const float4 v = *reinterpret_cast<const float4*>(row + i);
      logits[i] += v.x;
      logits[i + 1] += v.y;
      logits[i + 2] += v.z;
      logits[i + 3] += v.w;
    }
  } else {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) logits[i] += row[i];
  }
}

// A warp gates a token of the cluster from the logits that the blocks sent.
template <int kPerLane>
__device__ __forceinline__ void GateToken(const DecodeGateLaunch& launch, const GateBlock& block,
                                          int token) {
  const RouteChoice& choice = launch.args.choice;
  const int lane = threadIdx.x % 32, experts = launch.args.router.outputs;
  const auto* gathered = reinterpret_cast<const float*>(block.dynamic + launch.gathered_at);
  const float scale = NormScale(launch, block.shared, token);
  float logits[kPerLane] = {};
#pragma unroll
  for (int r = 0; r < kClusterMax; ++r) {
    if (r >= launch.cluster) break;
    AddLogits(gathered + (r * launch.held + token) * launch.logit_stride, logits);
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) logits[i] *= scale;
  const GateChoice chosen = WarpGate(logits, experts, choice.top_k, choice.normalize);
  if (lane >= choice.top_k) return;
  const int64_t entry = (block.first_token + token) * choice.top_k + lane;
  choice.experts[entry] = chosen.expert;
  choice.gate_weights[entry] = chosen.weight;
  if (launch.gate_clusters == 1) block.shared.chunk.picks[entry] = chosen.expert;
}

// True in the one block whose cluster finished last, which then has all picks.
__device__ __forceinline__ bool TakeAllPicks(const DecodeGateLaunch& launch,
                                             DecodeGateShared& shared) {
  if (launch.gate_clusters == 1) return true;
  __threadfence();  // this block's choices, before its ticket
  __syncthreads();
  if (threadIdx.x == 0) {
    shared.last = atomicAdd(launch.args.ticket, 1) == launch.gate_clusters - 1;
    if (shared.last) *launch.args.ticket = 0;
    __threadfence();  // the other blocks' choices, after theirs
  }
  __syncthreads();
  if (!shared.last) return false;
  const int entries = launch.args.norm.tokens * launch.args.choice.top_k;
  for (int i = threadIdx.x; i < entries; i += kGateThreads) {
    shared.chunk.picks[i] = __ldcg(launch.args.choice.experts + i);
  }
  return true;
}

__device__ __forceinline__ void BuildTable(const DecodeGateLaunch& launch, ChunkShared& chunk) {
  const int top_k = launch.args.choice.top_k, entries = launch.args.norm.tokens * top_k;
  if (launch.args.norm.tokens == 1) {
    BuildTableOfOne<kGateThreads>(chunk, launch.args.table, top_k);
    return;
  }
  for (int i = threadIdx.x; i < entries; i += kGateThreads) {
    MarkEntry(chunk, launch.by_top_k(i), chunk.picks[i]);
  }
  __syncthreads();
  constexpr int kSlots = kSlotsPerThread<kGateThreads>;
  int count[kSlots], first[kSlots];
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    count[i] = CountBelow(chunk, threadIdx.x * kSlots + i, kChunkTokens);
  }
  ScanSlots<kGateThreads>(chunk, launch.args.table, count, true, first);
#pragma unroll
  for (int i = 0; i < kSlots; ++i) chunk.base[threadIdx.x * kSlots + i] = first[i];
  __syncthreads();
  PlaceEntries<kGateThreads>(chunk, launch.args.table, 0, entries, top_k);
}

// The norm's weight at the thread's first quad of the block's part of a token.
__device__ __forceinline__ void LoadFirstWeight(const DecodeGateLaunch& launch, int rank,
                                                float4 (&weight)[1]) {
  const int quads = launch.tiles * kTileInputs / 4, i = threadIdx.x;
  const int quad = rank * quads + i - launch.by_quads(i) * quads;
  LoadQuads(launch.args.norm.norm_weight, {quad, 1, launch.args.norm.hidden / 4}, weight);
}

template <int kPerLane>
__global__ void __launch_bounds__(kGateThreads, 2)
    DecodeGateKernel(const __grid_constant__ DecodeGateLaunch launch) {
  extern __shared__ __align__(128) uint8_t dynamic[];
  __shared__ DecodeGateShared shared;
  const int cluster = blockIdx.x / launch.cluster;
  if (cluster >= launch.gate_clusters) {
    PrefetchShare(launch);
    return;
  }
  ClusterArrive();  // all blocks have started before any stores into another
  const int rank = static_cast<int>(ClusterRank());
  const GateBlock block = {
      .rank = rank,
      .tokens = min(launch.args.norm.tokens - cluster * kClusterTokens, kClusterTokens),
      .first_token = int64_t{cluster} * kClusterTokens,
      .shared = shared,
      .dynamic = dynamic};
  const WarpUnits units = UnitsOfWarp(launch, rank);
  uint4 tile[kUnits][4];
  LoadUnits(launch, units, rank, {}, tile);
  float4 first_weight[1];
  LoadFirstWeight(launch, rank, first_weight);
  ClearMasks<kGateThreads>(shared.chunk);
  GridDependencyWait();
  LaunchDependents();
  if (rank == 0)
    LoadSlotMap<kGateThreads>(launch.args.table, launch.args.router.outputs, shared.chunk);
  StageTokens(launch, block, first_weight[0]);
  __syncthreads();
  MultiplyRouter(launch, units, block, tile);
  __syncthreads();
  ClusterWait();
  SendParts(launch, block);
  __syncwarp();
  ClusterArrive();
  ClusterWait();
  const int warp = threadIdx.x / 32;
  if (rank == 0 && warp < block.tokens) GateToken<kPerLane>(launch, block, warp);
  WriteNormed(launch, block);
  if (rank != 0) return;
  if (!TakeAllPicks(launch, shared)) return;
  __syncthreads();
  BuildTable(launch, shared.chunk);
}

// ceil(2^32 / divisor): exact where value * divisor < 2^32.
Divider DividerOf(uint32_t divisor) {
  Divider divider;
  if (divisor > 1) {
    divider.factor = static_cast<uint32_t>(((uint64_t{1} << 32) + divisor - 1) / divisor);
  }
  return divider;
}

int PerLane(int experts) {
  int per_lane = 1;
  while (per_lane * 32 < experts) per_lane *= 2;
  return per_lane;
}

// Cuts hidden over as many blocks as have a tile each.
DecodeGateLaunch Cut(const DecodeGateArgs& args) {
  DecodeGateLaunch launch = {};
  launch.args = args;
  const int input_tiles = args.router.input_tiles(), rows = args.router.output_tiles();
  launch.cluster = kClusterMax;
  while (launch.cluster > input_tiles) launch.cluster /= 2;
  launch.tiles = (input_tiles + launch.cluster - 1) / launch.cluster;
  launch.parts = rows >= kGateWarps ? 1 : std::min(launch.tiles, kGateWarps / rows);
  launch.gate_clusters = (args.norm.tokens + kClusterTokens - 1) / kClusterTokens;
  // Rows of activations and of logits are padded so that lanes of a fragment read other banks.
  launch.row_bytes = launch.tiles * kTileInputs * 2 + 64;
  // A lane reads its experts unasked: there is room for those of every lane.
  launch.logit_stride = std::max(rows * kTileOutputs, 32 * PerLane(args.router.outputs)) + 4;
  launch.by_quads = DividerOf(launch.tiles * kTileInputs / 4);
  launch.by_experts = DividerOf(rows * kTileOutputs);
  launch.by_top_k = DividerOf(args.choice.top_k);
  launch.held = std::min(args.norm.tokens, kClusterTokens);
  launch.low_at = launch.held * launch.row_bytes;
  launch.normed_at = 2 * launch.low_at;
  launch.parts_at = launch.normed_at + launch.held * launch.tiles * kTileInputs * 4;
  launch.gathered_at = launch.parts_at + launch.parts * launch.held * launch.logit_stride * 4;
  launch.shared_bytes = launch.gathered_at + launch.cluster * launch.held * launch.logit_stride * 4;
  return launch;
}

using Kernel = void (*)(DecodeGateLaunch);

Kernel KernelFor(int experts) {
  switch (PerLane(experts)) {
    case 1:
      return DecodeGateKernel<1>;
    case 2:
      return DecodeGateKernel<2>;
    case 4:
      return DecodeGateKernel<4>;
    case 8:
      return DecodeGateKernel<8>;
    default:
      return DecodeGateKernel<16>;
  }
}

absl::Status CheckDecodeGate(const DecodeGateArgs& args) {
  for (const absl::Status& status :
       {CheckAddNormArgs(args.norm), CheckRouter(args.router),
        CheckRoute(args.norm.tokens, args.router.outputs, args.choice, args.table)}) {
    if (!status.ok()) return status;
  }
  if (args.norm.tokens > kDecodeGateTokensMax || args.norm.normed == nullptr ||
      args.router.inputs != args.norm.hidden || args.ticket == nullptr ||
      args.prefetch_bytes % 16 != 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "decode_gate of ", args.norm.tokens, " tokens of ", args.norm.hidden,
        " values by a router of ", args.router.inputs, ": at most ", kDecodeGateTokensMax,
        " tokens, with normed rows and a ticket, and a prefetch in sixteens"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status DecodeGate(const DecodeGateArgs& args, CudaStream stream, bool dependent) {
  if (const absl::Status status = CheckDecodeGate(args); !status.ok()) return status;
  const DecodeGateLaunch launch = Cut(args);
  int blocks = launch.gate_clusters * launch.cluster;
  if (args.prefetch != nullptr && args.prefetch_bytes > 0) {
    int device = 0, processors = 0;
    if (const auto error = cudaGetDevice(&device); error != cudaSuccess) {
      return CudaStatus(error, "reading the current device");
    }
    if (const auto error =
            cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device);
        error != cudaSuccess) {
      return CudaStatus(error, "counting processors");
    }
    // A cluster needs its processors side by side, which leaves some without one: fewer blocks than
    // processors, or the last would wait for the first.
    const int free = std::max(processors - 12 - blocks, launch.cluster);
    blocks += free / launch.cluster * launch.cluster;
  }
  const LaunchShape shape = {.grid = dim3(blocks),
                             .block = dim3(kGateThreads),
                             .shared_bytes = launch.shared_bytes,
                             .stream = stream,
                             .dependent = dependent,
                             .cluster = launch.cluster};
  return Launch("decode_gate", shape, KernelFor(args.router.outputs), launch);
}

}  // namespace conclave
