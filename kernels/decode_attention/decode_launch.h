// The launchers behind DecodeAttention, which has checked their arguments. Any thread.
#pragma once

#include "kernels/decode_attention/decode_attention.h"

namespace conclave {

// What a kernel needs of a config.
struct DecodeGrid {
  int32_t splits = 1;
  int32_t head_blocks = 1;  // of a kv head
  int32_t work_blocks = 0;  // those after them prefetch
  int32_t prefetch_blocks = 0;
};

absl::Status LaunchDecode32(const DecodeAttentionArgs& args, const DecodeGrid& grid);
absl::Status LaunchDecode64(const DecodeAttentionArgs& args, const DecodeGrid& grid);
absl::Status LaunchDecode128(const DecodeAttentionArgs& args, const DecodeGrid& grid);
absl::Status LaunchDecode256(const DecodeAttentionArgs& args, const DecodeGrid& grid);

// Joins the splits into args.out.
absl::Status LaunchDecodeCombine(const DecodeAttentionArgs& args, int32_t splits);

}  // namespace conclave
