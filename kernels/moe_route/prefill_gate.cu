#include <algorithm>

#include "kernels/cuda/launch.cuh"
#include "kernels/cuda/ptx.cuh"
#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_checks.h"
#include "kernels/moe_route/route_gate.cuh"
#include "kernels/moe_route/route_table.cuh"

namespace conclave {
namespace {

constexpr int kThreads = 512;
constexpr int kWarps = kThreads / 32;
static_assert(kSlotsPerThread<kThreads> == 1);

// Counts of a chunk's entries by slot stand as bytes, padded to quads.
__host__ __device__ __forceinline__ int SlotQuads(int slots) { return (slots + 3) / 4; }

template <int kPerLane>
__device__ __forceinline__ void LoadLogits(const PrefillGateArgs& args, int64_t token, bool valid,
                                           float (&logits)[kPerLane]) {
  const int first = threadIdx.x % 32 * kPerLane;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    logits[i] = valid && first + i < args.experts
                    ? __ldcg(args.logits + token * args.logits_stride + first + i)
                    : 0.0f;
  }
}

// A block gates a chunk of 64 tokens and counts its entries by slot.
template <int kPerLane>
__global__ void __launch_bounds__(kThreads)
    GateChunk(const __grid_constant__ PrefillGateArgs args) {
  __shared__ ChunkShared shared;
  const int lane = threadIdx.x % 32, top_k = args.choice.top_k;
  const int64_t first = int64_t{blockIdx.x} * kChunkTokens;
  const int tokens = static_cast<int>(min(int64_t{kChunkTokens}, args.tokens - first));
  ClearMasks<kThreads>(shared);
  GridDependencyWait();
  LaunchDependents();
  LoadSlotMap<kThreads>(args.table, args.experts, shared);
  int t = threadIdx.x / 32;
  float next[kPerLane];
  LoadLogits(args, first + t, t < tokens, next);
  __syncthreads();
  for (; t < tokens; t += kWarps) {
    float logits[kPerLane];
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) logits[i] = next[i];
    LoadLogits(args, first + t + kWarps, t + kWarps < tokens, next);
    const GateChoice choice = WarpGate(logits, args.experts, top_k, args.choice.normalize);
    if (lane >= top_k) continue;
    args.choice.experts[(first + t) * top_k + lane] = choice.expert;
    args.choice.gate_weights[(first + t) * top_k + lane] = choice.weight;
    MarkEntry(shared, t, choice.expert);
  }
  __syncthreads();
  const int quads = SlotQuads(args.table.slots);
  auto* counts = static_cast<uint32_t*>(args.scratch) + int64_t{blockIdx.x} * quads;
  for (int q = threadIdx.x; q < quads; q += kThreads) {
    uint32_t packed = 0;
#pragma unroll
    for (int i = 0; i < 4; ++i) {  // masks past the slots are clear
      packed |= static_cast<uint32_t>(CountBelow(shared, q * 4 + i, 64)) << 8 * i;
    }
    counts[q] = packed;
  }
}

struct SlotSums {
  int before[kRouteExpertsMax];  // entries of the chunks before this one
  int total[kRouteExpertsMax];
};

// Adds up all chunks' counts: threads share the chunks of a quad of slots.
__device__ __forceinline__ void SumChunks(const PrefillGateArgs& args, SlotSums& sums) {
  const int quads = SlotQuads(args.table.slots), parts = kThreads / quads;
  const int quad = threadIdx.x % quads, part = threadIdx.x / quads;
  if (part >= parts) return;
  const auto* counts = static_cast<const uint32_t*>(args.scratch) + quad;
  int before[4] = {}, total[4] = {};
  const int chunks = (args.tokens + kChunkTokens - 1) / kChunkTokens;
#pragma unroll 8
  for (int c = part; c < chunks; c += parts) {
    const uint32_t packed = __ldcg(counts + int64_t{c} * quads);
    const bool earlier = c < static_cast<int>(blockIdx.x);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int count = static_cast<int>(packed >> 8 * i & 0xff);
      total[i] += count;
      before[i] += earlier ? count : 0;
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    atomicAdd(&sums.before[quad * 4 + i], before[i]);
    atomicAdd(&sums.total[quad * 4 + i], total[i]);
  }
}

// A block places the entries of its chunk; block 0 writes the table's heads.
__global__ void __launch_bounds__(kThreads)
    PlaceChunk(const __grid_constant__ PrefillGateArgs args) {
  __shared__ ChunkShared shared;
  __shared__ SlotSums sums;
  const int top_k = args.choice.top_k, s = threadIdx.x;
  const int64_t first = int64_t{blockIdx.x} * kChunkTokens;
  const int tokens = static_cast<int>(min(int64_t{kChunkTokens}, args.tokens - first));
  ClearMasks<kThreads>(shared);
  sums.before[s] = 0;
  sums.total[s] = 0;
  GridDependencyWait();
  LaunchDependents();
  LoadSlotMap<kThreads>(args.table, args.experts, shared);
  for (int i = threadIdx.x; i < tokens * top_k; i += kThreads) {
    shared.picks[i] = __ldcg(args.choice.experts + first * top_k + i);
  }
  __syncthreads();
  SumChunks(args, sums);
  for (int i = threadIdx.x; i < tokens * top_k; i += kThreads) {
    MarkEntry(shared, i / top_k, shared.picks[i]);
  }
  __syncthreads();
  int start[1];
  ScanSlots<kThreads>(shared, args.table, {sums.total[s]}, blockIdx.x == 0, start);
  shared.base[s] = start[0] + sums.before[s];
  __syncthreads();
  PlaceEntries<kThreads>(shared, args.table, first * top_k, tokens * top_k, top_k);
}

using GateKernel = void (*)(PrefillGateArgs);

GateKernel GateFor(int experts) {
  const int per_lane = (experts + 31) / 32;
  if (per_lane <= 1) return GateChunk<1>;
  if (per_lane <= 2) return GateChunk<2>;
  if (per_lane <= 4) return GateChunk<4>;
  return per_lane <= 8 ? GateChunk<8> : GateChunk<16>;
}

}  // namespace

int64_t RouteScratchBytes(int32_t tokens, int32_t slots) {
  const int64_t chunks = (int64_t{tokens} + kChunkTokens - 1) / kChunkTokens;
  return std::max<int64_t>(chunks * SlotQuads(slots) * 4, 16);
}

absl::Status PrefillGate(const PrefillGateArgs& args, CudaStream stream, bool dependent) {
  if (const absl::Status status = CheckRoute(args.tokens, args.experts, args.choice, args.table);
      !status.ok()) {
    return status;
  }
  if (args.logits_stride < args.experts) {
    return absl::InvalidArgumentError(
        absl::StrCat("logits of ", args.experts, " experts with rows of ", args.logits_stride));
  }
  const LaunchShape shape = {.grid = dim3((args.tokens + kChunkTokens - 1) / kChunkTokens),
                             .block = dim3(kThreads),
                             .stream = stream,
                             .dependent = dependent};
  const absl::Status gated = Launch("moe gate", shape, GateFor(args.experts), args);
  if (!gated.ok()) return gated;
  return Launch("moe table", shape, PlaceChunk, args);
}

}  // namespace conclave
