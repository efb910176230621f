#include "kernels/token_step/token_plan.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/weight_pack/quant_tiles.h"

namespace conclave {
namespace {

constexpr int kAttentionFloats = (kTokenWarps + 1) * (128 + 2) + 2 * 128;  // in the place of x
constexpr int kStagesMin = 4;

int CeilDiv(int64_t a, int64_t b) { return static_cast<int>((a + b - 1) / b); }

absl::Status Refuse(const char* what, int64_t value) {
  return absl::InvalidArgumentError(
      absl::StrCat("token_step does not serve ", what, " ", value, "; use the chain of kernels"));
}

absl::Status CheckShape(const TokenShape& s) {
  if (s.layers <= 0) return Refuse("layers", s.layers);
  if (s.hidden <= 0 || s.hidden % 64 != 0 || s.hidden > kTokenHiddenMax) {
    return Refuse("hidden", s.hidden);
  }
  if (s.head_dim != 64 && s.head_dim != 128) return Refuse("head_dim", s.head_dim);
  if (s.kv_heads <= 0 || s.heads <= 0 || s.heads % s.kv_heads != 0) {
    return Refuse("heads", s.heads);
  }
  if (s.page_tokens <= 0 || (s.page_tokens & (s.page_tokens - 1)) != 0) {
    return Refuse("page_tokens", s.page_tokens);
  }
  if (s.moe_layers < 0 || s.moe_layers > s.layers) return Refuse("moe_layers", s.moe_layers);
  if (s.moe_layers > 0) {
    if (s.experts <= 0 || s.experts > kTokenExpertsMax) return Refuse("experts", s.experts);
    if (s.top_k <= 0 || s.top_k > std::min(kTokenTopKMax, s.experts)) {
      return Refuse("top_k", s.top_k);
    }
    if (s.ffn <= 0 || s.ffn % 8 != 0) return Refuse("ffn", s.ffn);
  }
  if (s.moe_layers < s.layers && (s.dense_ffn <= 0 || s.dense_ffn % 8 != 0)) {
    return Refuse("dense_ffn", s.dense_ffn);
  }
  if (s.format != WeightFormat::kBf16 && s.format != WeightFormat::kFp8 &&
      s.format != WeightFormat::kInt8 && s.format != WeightFormat::kInt4) {
    return Refuse("format", static_cast<int>(s.format));
  }
  // A tile's weights share the scale of their row: groups of 64 inputs and more.
  if (!IsQuantGroup(s.format, s.group) || ScaleGroups(s.format, s.group) > 1) {
    return Refuse("group", s.group);
  }
  return absl::OkStatus();
}

// Splits of the inputs that give the largest block the least, at a price for each further slab.
int ChooseSplits(int row_groups, int k_tiles, int blocks) {
  int best = 1;
  double best_cost = 1e30;
  for (int splits = 1; splits <= 4; splits *= 2) {
    if (k_tiles % splits != 0) continue;
    const double cost =
        CeilDiv(int64_t{row_groups} * splits, blocks) * (1.0 / splits) * (1 + 0.02 * splits);
    if (cost < best_cost) {
      best_cost = cost;
      best = splits;
    }
  }
  return best;
}

void PlanWorkspace(const TokenShape& s, int choices_by_ffn, TokenPlan& plan) {
  int64_t at = 256;  // the barrier's counters
  const auto take = [&at](int64_t bytes) {
    const int64_t place = at;
    at += (bytes + 255) / 256 * 256;
    return place;
  };
  plan.logits = take(int64_t{std::max(s.experts, 1)} * 8);
  plan.qkv = take(int64_t{plan.qkv_splits} * (s.heads + 2 * s.kv_heads) * s.head_dim * 4);
  plan.o = take(int64_t{plan.attention_splits} * s.heads * s.head_dim * 4);
  plan.o_max = take(int64_t{plan.attention_splits} * s.heads * 8);
  plan.x = take(int64_t{s.hidden} * 4);
  plan.squares = take(s.hidden / kTileOutputs * 4);
  plan.ffn = take(int64_t{choices_by_ffn} * 4);
  plan.workspace_bytes = at;
}

}  // namespace

absl::StatusOr<TokenPlan> PlanTokenStep(const TokenShape& s, const TokenChip& chip) {
  if (absl::Status status = CheckShape(s); !status.ok()) return status;
  TokenPlan plan;
  plan.blocks = chip.blocks;
  while (1 << plan.page_shift < s.page_tokens) ++plan.page_shift;
  const int hidden_tiles = s.hidden / kTileInputs;
  const int qkv_groups = (s.heads + 2 * s.kv_heads) * s.head_dim / kTileOutputs;
  plan.qkv_splits = ChooseSplits(qkv_groups, hidden_tiles, plan.blocks);
  plan.attention_splits = std::clamp(plan.blocks / s.heads, 1, 32);

  const int moe_ffn = s.moe_layers > 0 ? CeilDiv(s.ffn, kTileInputs) * kTileInputs : 0;
  const int dense_ffn =
      s.moe_layers < s.layers ? CeilDiv(s.dense_ffn, kTileInputs) * kTileInputs : 0;
  const int ffn_floats = std::max(moe_ffn * s.top_k, dense_ffn);
  plan.x_floats =
      std::max({s.hidden, s.heads * s.head_dim, ffn_floats, kAttentionFloats}) + 63 & ~63;
  const int64_t gate_units = std::max(s.moe_layers > 0 ? s.top_k * (s.ffn / 8) : 0,
                                      s.moe_layers < s.layers ? s.dense_ffn / 8 : 0);
  const int64_t units = std::max<int64_t>(
      {int64_t{qkv_groups} * plan.qkv_splits, s.hidden / kTileOutputs, gate_units});
  plan.units_max = CeilDiv(units, plan.blocks);
  if (CeilDiv(s.hidden / kTileOutputs, plan.blocks) * kTileOutputs > kTokenRowsMax) {
    return Refuse("blocks", plan.blocks);
  }

  plan.tile_bytes = TileBytes(s.format, s.group);
  plan.warp_tiles = std::max(1, 16 / CodeBits(s.format));
  plan.stage_bytes = kTokenStageWarps * plan.warp_tiles * plan.tile_bytes;
  plan.shared_x = kTokenSharedFixed;
  plan.shared_sums = plan.shared_x + plan.x_floats * 4;
  const int sums_end = plan.shared_sums + plan.units_max * kTokenWarps * kTileOutputs * 4;
  plan.shared_ring = (sums_end + 1023) / 1024 * 1024;
  plan.stages =
      std::min(kTokenStagesMax, (chip.shared_bytes - plan.shared_ring) / plan.stage_bytes);
  if (plan.stages < kStagesMin) return Refuse("activations of floats", plan.x_floats);
  plan.shared_total = plan.shared_ring + plan.stages * plan.stage_bytes;
  plan.prefetch_bytes = 160 * 1024;
  PlanWorkspace(s, ffn_floats, plan);
  return plan;
}

}  // namespace conclave
