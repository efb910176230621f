#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/moe_route/decode_gate.cuh"
#include "kernels/moe_route/route_checks.h"

namespace conclave {
namespace {

// A warp gates a token of the cluster from the logits that the blocks sent.
template <int kPerLane>
__device__ __forceinline__ void GateToken(const DecodeGateLaunch& launch, const GateBlock& block,
                                          int token) {
  const RouteChoice& choice = launch.args.choice;
  const int lane = threadIdx.x % 32, experts = launch.args.router.outputs;
  const auto* gathered = reinterpret_cast<const float*>(block.dynamic + launch.gathered_at);
  const float scale = NormScale(launch, block.shared, token);
  float logits[kPerLane] = {};
  for (int r = 0; r < launch.cluster; ++r) {
    const float* row = gathered + (r * launch.held + token) * launch.logit_stride;
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      if (lane * kPerLane + i < experts) logits[i] += row[lane * kPerLane + i];
    }
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
  for (int i = threadIdx.x; i < entries; i += kGateThreads) {
    MarkEntry(chunk, i / top_k, chunk.picks[i]);
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
  LoadUnits(launch, units, rank, 0, tile);
  ClearMasks<kGateThreads>(shared.chunk);
  GridDependencyWait();
  LaunchDependents();
  if (rank == 0)
    LoadSlotMap<kGateThreads>(launch.args.table, launch.args.router.outputs, shared.chunk);
  StageTokens(launch, block);
  __syncthreads();
  MultiplyRouter(launch, units, block, tile);
  __syncthreads();
  ClusterWait();
  SendParts(launch, block);
  __syncwarp();
  ClusterArrive();
  ClusterWait();
  WriteNormed(launch, block);
  if (rank != 0) return;
  const int warp = threadIdx.x / 32;
  if (warp < block.tokens) GateToken<kPerLane>(launch, block, warp);
  if (!TakeAllPicks(launch, shared)) return;
  __syncthreads();
  BuildTable(launch, shared.chunk);
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
  launch.logit_stride = rows * kTileOutputs + 4;
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
  const int per_lane = (experts + 31) / 32;
  if (per_lane <= 1) return DecodeGateKernel<1>;
  if (per_lane <= 2) return DecodeGateKernel<2>;
  if (per_lane <= 4) return DecodeGateKernel<4>;
  return per_lane <= 8 ? DecodeGateKernel<8> : DecodeGateKernel<16>;
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
