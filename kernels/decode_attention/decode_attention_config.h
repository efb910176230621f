// How a decode_attention is cut for a chip: over how many blocks the context of a (sequence, kv
// head) is split, and whether a second kernel joins the splits. A pure function of shapes, tested
// without a GPU. Values; any thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace conclave {

inline constexpr int kDecodeTokensMax = 256;
inline constexpr int kDecodeSplitsMax = 64;
inline constexpr int kDecodeGroupRows = 16;  // query heads that a block serves
inline constexpr int kDecodeWarps = 4;
inline constexpr int kDecodeTileTokens = 16;  // that a warp takes at a time

struct DecodeAttentionShape {
  int32_t context_max = 0;  // longest context, new token included, that the launch is meant for
  int32_t tokens = 0;
  int32_t heads = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  int32_t sm_count = 132;
};

struct DecodeAttentionConfig {
  int32_t splits = 1;
  // Join the splits into bf16 rows by a kernel of its own: many splits or tokens would cost the
  // reader more. The caller gives `out` or takes the splits accordingly.
  bool combine = false;
  int32_t prefetch_blocks = 0;  // idle blocks that may prefetch weights
};

// InvalidArgument for shapes that no kernel takes. Any config is right for any context.
absl::StatusOr<DecodeAttentionConfig> ChooseDecodeAttentionConfig(
    const DecodeAttentionShape& shape);

// Blocks that a (sequence, kv head, split) takes: one for each 16 query heads of the kv head.
constexpr int32_t DecodeHeadBlocks(int32_t heads, int32_t kv_heads) {
  return (heads / kv_heads + kDecodeGroupRows - 1) / kDecodeGroupRows;
}

}  // namespace conclave
