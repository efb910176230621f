// How a token_step is cut for a chip: a pure function of the shape, tested without a GPU. A phase
// multiplies a matrix in units of 16 outputs, over all inputs or a split of them; a block has a run
// of units, and its tiles pass through the ring in stages. Values; any thread. The same shape gives
// the same plan, hence the same bits.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/token_step/token_step.h"

namespace conclave {

inline constexpr int kTokenWarps = 16;  // that compute; one more copies
inline constexpr int kTokenThreads = kTokenWarps * 32;
inline constexpr int kTokenStageWarps = 8;  // that share a stage
inline constexpr int kTokenStagesMax = 32;
inline constexpr int kTokenTopKMax = 8;
inline constexpr int kTokenExpertsMax = 512;
inline constexpr int kTokenHiddenMax = 8192;
inline constexpr int kTokenRowsMax = 128;       // of the residual that a block makes
inline constexpr int kTokenSharedFixed = 6656;  // bytes of TokenShared (token_ring.cuh)

struct TokenChip {
  int32_t blocks = 132;  // processors
  int32_t shared_bytes = 232448;
};

struct TokenPlan {
  int32_t blocks = 0;
  int32_t qkv_splits = 1;        // of the inputs; a power of two
  int32_t attention_splits = 1;  // of the context
  int32_t tile_bytes = 0;
  int32_t warp_tiles = 1;      // of a stage that one warp takes
  int32_t stages = 0;          // of the ring
  int32_t stage_bytes = 0;     // kTokenStageWarps * warp_tiles tiles
  int32_t prefetch_bytes = 0;  // of the next layer's weights that a block asks into L2
  int32_t page_shift = 0;      // page_tokens is 1 << page_shift
  int32_t x_floats = 0;        // activations of a phase, at most
  int32_t units_max = 0;       // of a block in a phase

  // Shared memory, in bytes.
  int32_t shared_x = 0;
  int32_t shared_sums = 0;  // [units_max][kTokenWarps][16]
  int32_t shared_ring = 0;
  int32_t shared_total = 0;

  // Workspace, in bytes.
  int64_t logits = 0;   // int64 [experts]
  int64_t qkv = 0;      // float [qkv_splits][qkv outputs]
  int64_t o = 0;        // float [attention_splits][heads * head_dim]
  int64_t o_max = 0;    // float2 [attention_splits][heads]: largest score, sum
  int64_t x = 0;        // activations of qkv and gate_up, as StoreX lays them out
  int64_t squares = 0;  // float [hidden / 16]: of the residual
  int64_t ffn = 0;      // activations of down: [choices][ffn padded to whole tiles]
  int64_t workspace_bytes = 0;
};

// InvalidArgument names what this kernel does not serve.
absl::StatusOr<TokenPlan> PlanTokenStep(const TokenShape& shape, const TokenChip& chip);

}  // namespace conclave
