// The loading warp of the wgmma kernel of flash_attention: it takes items from the launch's counter
// and copies Q of a tile, then K and V of its context from their pages, into the rings. Device code
// only.
#pragma once

#include "kernels/flash_attention/flash_shared.cuh"

namespace conclave {

__device__ __forceinline__ void MapCopy2(void* to, const CUtensorMap& map, int2 at,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3}], [%4];" ::"r"(SharedAddress(to)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(at.x), "r"(at.y), "r"(SharedAddress(barrier))
      : "memory");
}
__device__ __forceinline__ void MapCopy3(void* to, const CUtensorMap& map, int3 at,
                                         uint64_t* barrier) {
  asm volatile(
      "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], "
      "[%1, {%2, %3, %4}], [%5];" ::"r"(SharedAddress(to)),
      "l"(reinterpret_cast<uint64_t>(&map)), "r"(at.x), "r"(at.y), "r"(at.z),
      "r"(SharedAddress(barrier))
      : "memory");
}

// One tile of K or V: a copy of each page and column, spread over the lanes.
struct KvTile {
  int pages;     // of the tile, that hold context
  int lane_row;  // cache row of the lane's page
  uint8_t* to;
  uint64_t* full;
};

template <int kHeadDim>
__device__ __forceinline__ void LoadKvTile(const CUtensorMap& map, int page_tokens,
                                           const KvTile& tile) {
  using Shared = FlashShared<kHeadDim>;
  const int lane = threadIdx.x % 32;
  const int page_bytes = page_tokens * 128;
  if (lane == 0) BarrierExpectBytes(tile.full, tile.pages * page_bytes * Shared::kColumns);
  __syncwarp();
  const int slot = lane / Shared::kColumns, column = lane % Shared::kColumns;
  if (slot < tile.pages) {
    MapCopy2(tile.to + column * kFlashColumnBytes + slot * page_bytes, map,
             {column * 64, tile.lane_row}, tile.full);
  }
}

template <int kHeadDim>
__device__ void ProduceTiles(const FlashAttentionArgs& args, const FlashTiling& tiling,
                             const FlashMaps& maps, uint8_t* shared) {
  using Shared = FlashShared<kHeadDim>;
  auto& barriers = *reinterpret_cast<FlashBarriers<kHeadDim>*>(shared + Shared::kBarriers);
  auto* slot_item = reinterpret_cast<FlashItem*>(shared + Shared::kItem);
  const GpuKvLayer& cache = args.cache;
  const int lane = threadIdx.x % 32;
  const int pages_per_tile = kFlashKvTokens / cache.page_tokens;
  const int slot = lane / Shared::kColumns;
  FlashCursor cursor(args, tiling, reinterpret_cast<const int32_t*>(shared + Shared::kTiles));
  const int total = cursor.Total();
  const int grid = static_cast<int>(gridDim.x);
  int item = static_cast<int>(blockIdx.x);
  uint32_t q_parity = 0;
  RingPlace<Shared::kStages> place;
  while (true) {
    FlashItem found;
    if (item < total) found = cursor.Find(item);
    BarrierWait(&barriers.q_empty, q_parity ^ 1);
    if (lane == 0) {
      *slot_item = found;
      if (found.kv_tokens == 0) {
        BarrierArrive(&barriers.q_full);
      } else {
        BarrierExpectBytes(&barriers.q_full,
                           Shared::kColumns * tiling.tile_tokens * tiling.group * 128);
        for (int column = 0; column < Shared::kColumns; ++column) {
          MapCopy3(shared + Shared::kQ + column * kFlashColumnBytes, maps.q,
                   {column * 64, found.kv_head * tiling.group, found.first_token},
                   &barriers.q_full);
        }
      }
    }
    __syncwarp();
    q_parity ^= 1;
    if (found.kv_tokens == 0) break;
    const int32_t* pages = args.batch.page_table + args.batch.first_page[found.sequence];
    const int pages_in_use = (found.context + cache.page_tokens - 1) / cache.page_tokens;
    for (int first = 0; first * cache.page_tokens < found.kv_tokens; first += pages_per_tile) {
      const int held = min(pages_per_tile, pages_in_use - first);
      int row = 0;
      if (slot < held) row = CacheRow(cache, pages[first + slot], found.kv_head, 0);
      const int offset = place.stage * Shared::kTileBytes;
      BarrierWait(&barriers.k_empty[place.stage], place.parity ^ 1);
      LoadKvTile<kHeadDim>(
          maps.kv, cache.page_tokens,
          {held, row, shared + Shared::kK + offset, &barriers.k_full[place.stage]});
      BarrierWait(&barriers.v_empty[place.stage], place.parity ^ 1);
      LoadKvTile<kHeadDim>(maps.kv, cache.page_tokens,
                           {held, row + VRowOffset(cache), shared + Shared::kV + offset,
                            &barriers.v_full[place.stage]});
      place.Next();
    }
    int fetched = 0;
    if (lane == 0) fetched = atomicAdd(args.counter, 1);
    item = __shfl_sync(~0u, fetched, 0) + grid;
  }
  // Every item was followed by one fetch: the last fetch of all is known by its number.
  if (lane == 0 && item - grid == total - 1) atomicExch(args.counter, 0);
}

}  // namespace conclave
