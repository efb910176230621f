#include "worker/model/moe_block.h"

#include "comm/base/status.h"
#include "comm/fabric/moe_exchange.h"
#include "glog/logging.h"
#include "kernels/expert_ffn/expert_ffn.h"
#include "kernels/moe_gate/moe_gate.h"
#include "kernels/moe_permute/moe_permute.h"

namespace conclave {
namespace {

// Chooses the experts of the batch's tokens and their weights. Every tp rank computes the same
// bits.
void Route(StepContext& ctx, const LayerState& layer, const MoeChoices& choices) {
  const MoeShape& moe = ctx.shape.moe;
  NormResidual(ctx, layer.weights->ffn_norm);
  const Rows logits = ctx.buffers.router.Take(ctx.tokens(), moe.experts);
  Project(ctx, ctx.Normed(), layer.weights->router, logits);
  MoeGateArgs args;
  args.logits = logits;
  args.top_k = moe.top_k;
  args.normalize = choices.normalize;
  args.experts = absl::MakeSpan(ctx.buffers.chosen);
  args.weights = absl::MakeSpan(ctx.buffers.gate_weights);
  MoeGate(args);
}

// This rank's experts on the rows that came, its own among them: [entries, hidden].
Rows ComputeExperts(StepContext& ctx, const LayerState& layer, const DispatchedEntries& work) {
  const int64_t entries = static_cast<int64_t>(work.row_of_entry.size());
  const int64_t hidden = ctx.shape.hidden;
  const Rows out = ctx.buffers.computed.Take(entries, hidden);
  if (entries == 0) return out;
  SlotTable& table = ctx.buffers.slot_table;
  const int slots = static_cast<int>(layer.slots.size());
  BuildSlotTable(work.slot_of_entry, slots, table);
  ExpertFfnArgs args;
  args.x = {work.rows.data, work.rows.rows, hidden, work.rows.stride};
  args.row_of_entry = work.row_of_entry;
  args.table = &table;
  args.slots = layer.slots;
  args.out = out;
  ctx.meter.AddWeightBytes(ExpertFfn(args, ctx.pool));
  for (int s = 0; s < slots; ++s) {
    const int32_t tokens = table.first[s + 1] - table.first[s];
    if (tokens == 0) continue;
    const ExpertUnit unit = layer.units[s];
    ctx.result.experts.push_back({layer.weights->layer, unit.expert, unit.slice, tokens});
  }
  return out;
}

void CombineParts(StepContext& ctx, const CombinedParts& combined) {
  if (ctx.tokens() == 0) return;
  if (combined.summed) {
    const Rows hidden = ctx.Hidden();
    for (int64_t t = 0; t < hidden.rows; ++t) {
      const float* output = combined.parts.row(combined.part_row[t]);
      float* row = hidden.row(t);
      for (int64_t i = 0; i < hidden.cols; ++i) row[i] += output[i];
    }
    return;
  }
  const int64_t choices = ctx.tokens() * ctx.shape.moe.top_k;
  CombineArgs args;
  args.parts = {combined.parts.data, combined.parts.rows, ctx.shape.hidden, combined.parts.stride};
  args.part_row = combined.part_row;
  args.weights = ctx.buffers.gate_weights;
  args.top_k = ctx.shape.moe.top_k;
  args.slices = static_cast<int>(static_cast<int64_t>(combined.part_row.size()) / choices);
  args.out = ctx.Hidden();
  Combine(args);
}

}  // namespace

absl::Status MoeBlock(StepContext& ctx, LayerState& layer, const MoeChoices& choices) {
  CHECK(ctx.exchange != nullptr);
  const int64_t tokens = ctx.tokens();
  ctx.buffers.chosen.resize(tokens * ctx.shape.moe.top_k);
  ctx.buffers.gate_weights.resize(tokens * ctx.shape.moe.top_k);
  ctx.meter.Enter(Phase::kExperts);
  if (tokens > 0) Route(ctx, layer, choices);

  ctx.meter.Enter(Phase::kExchange);
  const Rows normed = ctx.Normed();
  DispatchInput input;
  input.layer = layer.weights->layer;
  input.tokens = {normed.data, tokens, normed.stride};
  input.experts = ctx.buffers.chosen;
  input.tokens_by_dp = ctx.batch.plan().tokens_by_dp;
  input.weights = ctx.buffers.gate_weights;
  ASSIGN_OR_RETURN(const DispatchedEntries work, ctx.exchange->Dispatch(input));
  ctx.meter.Enter(Phase::kExperts);
  const Rows computed = ComputeExperts(ctx, layer, work);
  ctx.meter.Enter(Phase::kExchange);
  ASSIGN_OR_RETURN(const CombinedParts combined,
                   ctx.exchange->Combine({computed.data, computed.rows, computed.stride}));
  ctx.meter.Enter(Phase::kExperts);
  CombineParts(ctx, combined);
  return absl::OkStatus();
}

}  // namespace conclave
