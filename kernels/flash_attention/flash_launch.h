// What the kernels of flash_attention are given, and their launchers. Values; FlashAttention has
// checked them; any thread.
#pragma once

#include "kernels/flash_attention/flash_attention.h"

namespace conclave {

// Rows of a tile: token r / group, query head r % group of a kv head's.
struct FlashTiling {
  int32_t group = 1;
  int32_t tile_tokens = 1;
  int32_t items_max = 0;  // tiles times kv heads, at most

  static FlashTiling Of(const FlashAttentionArgs& args, int32_t rows) {
    FlashTiling tiling;
    tiling.group = args.heads / args.cache.kv_heads;
    tiling.tile_tokens = rows / tiling.group;
    tiling.items_max =
        (args.batch.tokens / tiling.tile_tokens + args.batch.sequences) * args.cache.kv_heads;
    return tiling;
  }
};

absl::Status LaunchFlashWgmma64(const FlashAttentionArgs& args);
absl::Status LaunchFlashWgmma128(const FlashAttentionArgs& args);
absl::Status LaunchFlashGeneral(const FlashAttentionArgs& args);

}  // namespace conclave
