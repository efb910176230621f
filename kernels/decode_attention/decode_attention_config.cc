#include "kernels/decode_attention/decode_attention_config.h"

#include <algorithm>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// Tokens of a split that keep its four warps busy once.
constexpr int kSplitTokensMin = kDecodeWarps * kDecodeTileTokens;
// Up to so many splits the reader joins them in its prologue; longer contexts take more only if
// each is worth a pipeline's start.
constexpr int kJoinedSplitsMax = 16;
constexpr int kLongSplitTokens = 256;
constexpr int kJoinedTokensMax = 4;
constexpr int kPrefetchBlocksMin = 8;

int32_t DivideUp(int32_t a, int32_t b) { return (a + b - 1) / b; }

}  // namespace

absl::StatusOr<DecodeAttentionConfig> ChooseDecodeAttentionConfig(
    const DecodeAttentionShape& shape) {
  if (shape.tokens < 1 || shape.tokens > kDecodeTokensMax || shape.context_max < 1 ||
      shape.kv_heads < 1 || shape.heads < shape.kv_heads || shape.heads % shape.kv_heads != 0 ||
      shape.head_dim < 8 || shape.sm_count < 1) {
    return absl::InvalidArgumentError(absl::StrCat(
        "decode_attention: ", shape.tokens, " tokens (at most ", kDecodeTokensMax, "), context ",
        shape.context_max, ", ", shape.heads, "/", shape.kv_heads, " heads of ", shape.head_dim));
  }
  const int32_t blocks_per_sm = shape.head_dim <= 128 ? 2 : 1;
  const int32_t units =
      shape.tokens * shape.kv_heads * DecodeHeadBlocks(shape.heads, shape.kv_heads);
  const int32_t room = std::max(1, shape.sm_count * blocks_per_sm / units);
  const int32_t useful =
      std::max(std::min(kJoinedSplitsMax, DivideUp(shape.context_max, kSplitTokensMin)),
               DivideUp(shape.context_max, kLongSplitTokens));
  DecodeAttentionConfig config;
  config.splits = std::min({room, useful, kDecodeSplitsMax});
  config.combine = config.splits > kJoinedSplitsMax || shape.tokens > kJoinedTokensMax;
  config.prefetch_blocks = std::max(kPrefetchBlocksMin, shape.sm_count - units * config.splits);
  return config;
}

}  // namespace conclave
