// The routing table of up to 64 tokens by a block of kThreads threads (256 or 512). A token chooses
// an expert once, so a slot's entries are a set of tokens: a 64-bit mask that gives the count and
// each entry's rank, whatever the order in which bits were set. All threads of the block call.
// Device code only.
#pragma once

#include <cstdint>

#include "kernels/moe_route/moe_route.h"
#include "kernels/moe_route/route_gate.cuh"

namespace conclave {

inline constexpr int kChunkTokens = 64;
// Neighbouring slots that a thread scans.
template <int kThreads>
inline constexpr int kSlotsPerThread = kRouteExpertsMax / kThreads;

struct ChunkShared {
  uint32_t mask[2][kRouteExpertsMax];  // by slot: tokens 0..31 and 32..63 of the chunk
  int base[kRouteExpertsMax];          // place in order of a slot's first entry of the chunk
  int slot_of_expert[kRouteExpertsMax];
  int picks[kChunkTokens * kRouteTopKMax];  // expert of each entry of the chunk
  int warp_count[16];
  int warp_active[16];
};

template <int kThreads>
__device__ __forceinline__ void ClearMasks(ChunkShared& shared) {
#pragma unroll
  for (int s = threadIdx.x; s < kRouteExpertsMax; s += kThreads) {
    shared.mask[0][s] = 0;
    shared.mask[1][s] = 0;
  }
}

template <int kThreads>
__device__ __forceinline__ void LoadSlotMap(const RouteTable& table, int experts,
                                            ChunkShared& shared) {
  for (int e = threadIdx.x; e < experts; e += kThreads) {
    shared.slot_of_expert[e] =
        table.slot_of_expert == nullptr ? e : __ldcg(table.slot_of_expert + e);
  }
}

__device__ __forceinline__ void MarkEntry(ChunkShared& shared, int token, int expert) {
  const int slot = shared.slot_of_expert[expert];
  if (slot >= 0) atomicOr(&shared.mask[token / 32][slot], 1u << token % 32);
}

// Tokens of a slot among the first `tokens` of the chunk.
__device__ __forceinline__ int CountBelow(const ChunkShared& shared, int slot, int tokens) {
  const uint32_t low = shared.mask[0][slot], high = shared.mask[1][slot];
  if (tokens >= 32) {
    return __popc(low) + __popc(tokens == 64 ? high : high & ((1u << (tokens - 32)) - 1));
  }
  return __popc(low & ((1u << tokens) - 1));
}

// A thread brings the counts of its slots' entries (0 past the slots) and gets the places of their
// first. With `write` the table's slot_first and active slots are written.
template <int kThreads>
__device__ __forceinline__ void ScanSlots(ChunkShared& shared, const RouteTable& table,
                                          const int (&count)[kSlotsPerThread<kThreads>], bool write,
                                          int (&first)[kSlotsPerThread<kThreads>]) {
  constexpr int kSlots = kSlotsPerThread<kThreads>;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  int own = 0, own_active = 0;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    own += count[i];
    own_active += count[i] > 0 ? 1 : 0;
  }
  int through = own, active = own_active;
#pragma unroll
  for (int offset = 1; offset < 32; offset *= 2) {
    const int count_before = __shfl_up_sync(kFullWarp, through, offset);
    const int active_before = __shfl_up_sync(kFullWarp, active, offset);
    if (lane < offset) continue;
    through += count_before;
    active += active_before;
  }
  if (lane == 31) {
    shared.warp_count[warp] = through;
    shared.warp_active[warp] = active;
  }
  __syncthreads();
  const bool earlier = lane < warp;  // there are at most 16 warps
  int place = __reduce_add_sync(kFullWarp, earlier ? shared.warp_count[lane] : 0) + through - own;
  int rank =
      __reduce_add_sync(kFullWarp, earlier ? shared.warp_active[lane] : 0) + active - own_active;
#pragma unroll
  for (int i = 0; i < kSlots; ++i) {
    const int s = threadIdx.x * kSlots + i;
    first[i] = place;
    if (write && s < table.slots) table.slot_first[s] = place;
    if (write && count[i] > 0) table.active_slot[rank] = s;
    place += count[i];
    rank += count[i] > 0 ? 1 : 0;
  }
  if (write && threadIdx.x == kThreads - 1) {
    table.slot_first[table.slots] = place;
    *table.active_count = rank;
  }
}

// Writes order and row_of_entry of the chunk's entries, which start at entry `first`.
template <int kThreads>
__device__ __forceinline__ void PlaceEntries(const ChunkShared& shared, const RouteTable& table,
                                             int64_t first, int entries, int top_k) {
  for (int i = threadIdx.x; i < entries; i += kThreads) {
    const int slot = shared.slot_of_expert[shared.picks[i]];
    int row = -1;
    if (slot >= 0) {
      row = shared.base[slot] + CountBelow(shared, slot, i / top_k);
      table.order[row] = static_cast<int32_t>(first + i);
    }
    table.row_of_entry[first + i] = row;
  }
}

// The whole table of one token, whose slots are all different: a slot's place is the number of
// chosen slots below it. shared.picks is there for all threads.
template <int kThreads>
__device__ __forceinline__ void BuildTableOfOne(const ChunkShared& shared, const RouteTable& table,
                                                int top_k) {
  int chosen[kRouteTopKMax];
#pragma unroll
  for (int c = 0; c < kRouteTopKMax; ++c) {
    chosen[c] = c < top_k ? shared.slot_of_expert[shared.picks[c]] : -1;
  }
  for (int s = threadIdx.x; s <= table.slots; s += kThreads) {
    int below = 0, entry = -1;
#pragma unroll
    for (int c = 0; c < kRouteTopKMax; ++c) {
      below += chosen[c] >= 0 && chosen[c] < s ? 1 : 0;
      if (chosen[c] == s) entry = c;
    }
    table.slot_first[s] = below;
    if (s == table.slots) *table.active_count = below;
    if (entry < 0) continue;
    table.active_slot[below] = s;
    table.order[below] = entry;
    table.row_of_entry[entry] = below;
  }
  if (threadIdx.x < top_k && shared.slot_of_expert[shared.picks[threadIdx.x]] < 0) {
    table.row_of_entry[threadIdx.x] = -1;
  }
}

}  // namespace conclave
