// Which tile an item of a flash_attention launch is. Items are ordered by level: level j holds, of
// every sequence with more than j tiles, the tile j before its last, for each kv head; so that long
// contexts come first and the last items are short. Device code only; a warp calls together.
#pragma once

#include <climits>
#include <cstdint>

#include "kernels/flash_attention/flash_launch.h"

namespace conclave {

struct FlashItem {
  int32_t sequence = 0;
  int32_t kv_head = 0;
  int32_t first_token = 0;  // of the tile, a row of q
  int32_t tokens = 0;       // of the tile
  int32_t position = 0;     // of its first token
  int32_t context = 0;      // positions of the sequence that the cache holds
  int32_t kv_tokens = 0;    // positions that the tile's last token attends to; 0: no more items
};

// tiles [sequences] in shared memory; by all threads, which synchronise after.
__device__ inline void CountTiles(const GpuBatch& batch, int tile_tokens, int32_t* tiles) {
  for (int s = threadIdx.x; s < batch.sequences; s += blockDim.x) {
    const int tokens = batch.first_token[s + 1] - batch.first_token[s];
    tiles[s] = (tokens + tile_tokens - 1) / tile_tokens;
  }
}

// Walks the items in ascending order.
class FlashCursor {
 public:
  __device__ FlashCursor(const FlashAttentionArgs& args, const FlashTiling& tiling,
                         const int32_t* tiles)
      : args_(args), tiling_(tiling), tiles_(tiles) {
    NextSegment();
  }

  // Items of the launch.
  __device__ int Total() const {
    int sum = 0;
    for (int s = Lane(); s < args_.batch.sequences; s += 32) sum += tiles_[s];
    return __reduce_add_sync(~0u, sum) * args_.cache.kv_heads;
  }

  // `item` is not below that of an earlier call, and below Total().
  __device__ FlashItem Find(int item) {
    const int tile_item = item / args_.cache.kv_heads;
    while (count_ > 0 && tile_item >= base_ + count_ * (end_level_ - level_)) {
      base_ += count_ * (end_level_ - level_);
      level_ = end_level_;
      NextSegment();
    }
    FlashItem found;
    if (count_ == 0) return found;
    found.kv_head = item % args_.cache.kv_heads;
    found.sequence = SequenceOf((tile_item - base_) % count_);
    const int level = level_ + (tile_item - base_) / count_;
    const GpuBatch& batch = args_.batch;
    const int first = batch.first_token[found.sequence];
    const int tokens = batch.first_token[found.sequence + 1] - first;
    const int skipped = (tiles_[found.sequence] - 1 - level) * tiling_.tile_tokens;
    found.first_token = first + skipped;
    found.tokens = min(tiling_.tile_tokens, tokens - skipped);
    found.position = batch.position[found.sequence] + skipped;
    found.context = batch.position[found.sequence] + tokens;
    found.kv_tokens = found.position + found.tokens;
    return found;
  }

 private:
  __device__ static int Lane() { return threadIdx.x % 32; }

  // The levels from level_ on that have the same sequences.
  __device__ void NextSegment() {
    int count = 0, end = INT_MAX;
    for (int s = Lane(); s < args_.batch.sequences; s += 32) {
      if (tiles_[s] > level_) {
        ++count;
        end = min(end, tiles_[s]);
      }
    }
    count_ = __reduce_add_sync(~0u, count);
    end_level_ = __reduce_min_sync(~0u, end);
  }

  // The rank-th of the segment's sequences.
  __device__ int SequenceOf(int rank) const {
    for (int first = 0; first < args_.batch.sequences; first += 32) {
      const int s = first + Lane();
      const bool in = s < args_.batch.sequences && tiles_[s] > level_;
      const unsigned all = __ballot_sync(~0u, in);
      const int before = __popc(all & ((1u << Lane()) - 1));
      const unsigned hit = __ballot_sync(~0u, in && before == rank);
      if (hit != 0) return first + __ffs(static_cast<int>(hit)) - 1;
      rank -= __popc(all);
    }
    return 0;
  }

  const FlashAttentionArgs& args_;
  const FlashTiling& tiling_;
  const int32_t* tiles_;
  int level_ = 0;
  int end_level_ = 0;
  int count_ = 0;
  int base_ = 0;  // tile items before level_
};

}  // namespace conclave
