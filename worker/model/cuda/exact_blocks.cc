#include "worker/model/cuda/exact_blocks.h"

#include <cmath>

#include "comm/base/reduction.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/exact/exact.h"
#include "kernels/moe_permute/moe_permute.h"

namespace conclave {

// ---- shared helpers

absl::StatusOr<DeviceRows> NormResidual(ExactStep& step, const float* weight) {
  ASSIGN_OR_RETURN(const DeviceRows normed,
                   step.buffers.normed.Rows(step.hidden.rows, step.hidden.cols));
  ExactNormArgs args;
  args.x = step.hidden.data;
  args.delta = step.delta_pending ? static_cast<const float*>(step.buffers.delta.data()) : nullptr;
  args.weight = weight;
  args.epsilon = step.ctx.shape.norm_epsilon;
  args.rows = step.hidden.rows;
  args.cols = step.hidden.cols;
  args.y = normed.data;
  RETURN_IF_ERROR(ExactRmsNorm(args, step.stream));
  step.delta_pending = false;
  return normed;
}

absl::Status SettleResidual(ExactStep& step) {
  if (!step.delta_pending) return absl::OkStatus();
  step.delta_pending = false;
  return ExactAdd(step.hidden.data, static_cast<const float*>(step.buffers.delta.data()),
                  step.hidden.rows * step.hidden.cols, step.stream);
}

absl::Status FetchRows(ExactStep& step, DeviceRows from, float* to) {
  CHECK_EQ(from.stride, from.cols);
  RETURN_IF_ERROR(CopyToHost(to, from.data, from.bytes(), step.stream));
  return SynchronizeStream(step.stream);
}

absl::Status StoreRows(ExactStep& step, const float* from, DeviceRows to) {
  CHECK_EQ(to.stride, to.cols);
  return CopyToDevice(to.data, from, to.bytes(), step.stream);
}

absl::Status SumOverTp(ExactStep& step, DeviceRows data, const char* name, int layer) {
  StepContext& ctx = step.ctx;
  if (ctx.tp.size() == 1) return absl::OkStatus();
  const Phase before = ctx.meter.Enter(Phase::kCollective);
  const Rows host = ctx.buffers.delta.Take(data.rows, data.cols);
  RETURN_IF_ERROR(FetchRows(step, data, host.data));
  RETURN_IF_ERROR(ctx.fabric.AllReduceSum(ctx.tp, absl::MakeSpan(host.data, data.rows * data.cols),
                                          ctx.Op(name, layer)));
  RETURN_IF_ERROR(StoreRows(step, host.data, data));
  RETURN_IF_ERROR(SynchronizeStream(step.stream));
  ctx.meter.Enter(before);
  return absl::OkStatus();
}

absl::Status ProjectRows(ExactStep& step, const ExactProjectArgs& args) {
  ExactGemmArgs gemm;
  gemm.x = args.x.data;
  gemm.x_stride = args.x.stride;
  gemm.rows = args.x.rows;
  gemm.weights = args.weights;
  gemm.slices = args.slices;
  gemm.y = args.y.data;
  gemm.y_stride = args.y.stride;
  step.ctx.meter.AddWeightBytes(args.weights.matrix_bytes);
  return ExactGemm(gemm, step.stream);
}

namespace {

ExactRows View(DeviceRows rows) { return {rows.data, rows.rows, rows.cols, rows.stride}; }

ExactPages PagesOf(const ExactStep& step) {
  ExactPages pages;
  pages.first_token = step.batch.first_token;
  pages.position = step.batch.position;
  pages.first_page = step.batch.first_page;
  pages.page_table = step.batch.page_table;
  pages.sequences = step.ctx.batch.paged().sequences();
  pages.tokens = step.ctx.batch.tokens();
  return pages;
}

}  // namespace

// ---- attention

// One norm over all heads of a token, which are spread over the tp group: see attention_block.cc.
absl::Status ExactBlocks::NormFullWidth(DeviceRows q, DeviceRows k) {
  StepContext& ctx = step_.ctx;
  const int slices = kReductionSlices / ctx.tp.size();
  const int64_t tokens = q.rows;
  ASSIGN_OR_RETURN(const DeviceRows sums, step_.buffers.qk_sums.Rows(2, tokens));
  RETURN_IF_ERROR(ExactSumSquares(View(q), slices, sums.data, step_.stream));
  RETURN_IF_ERROR(ExactSumSquares(View(k), slices, sums.data + tokens, step_.stream));
  RETURN_IF_ERROR(SumOverTp(step_, sums, "qk_norm", layer_.weights.layer));
  ExactScaleArgs args;
  args.epsilon = ctx.shape.norm_epsilon;
  args.x = View(q);
  args.sums = sums.data;
  args.width = static_cast<int64_t>(ctx.shape.heads) * ctx.shape.head_dim;
  args.weight = layer_.weights.q_norm;
  RETURN_IF_ERROR(ExactScaleByRms(args, step_.stream));
  args.x = View(k);
  args.sums = sums.data + tokens;
  args.width = static_cast<int64_t>(ctx.shape.kv_heads) * ctx.shape.head_dim;
  args.weight = layer_.weights.k_norm;
  return ExactScaleByRms(args, step_.stream);
}

absl::Status ExactBlocks::NormAndRotate(QkNorm norm, DeviceRows q, DeviceRows k) {
  if (norm == QkNorm::kFullWidth) RETURN_IF_ERROR(NormFullWidth(q, k));
  ExactRopeArgs args;
  args.head_dim = shape().head_dim;
  args.cosine = step_.batch.cosine;
  args.sine = step_.batch.sine;
  args.norm_epsilon = shape().norm_epsilon;
  const bool per_head = norm == QkNorm::kPerHead;
  args.x = View(q);
  args.norm_weight = per_head ? layer_.weights.q_norm : nullptr;
  RETURN_IF_ERROR(ExactNormRope(args, step_.stream));
  args.x = View(k);
  args.norm_weight = per_head ? layer_.weights.k_norm : nullptr;
  return ExactNormRope(args, step_.stream);
}

absl::StatusOr<DeviceRows> ExactBlocks::AttendTokens(DeviceRows q, DeviceRows k, DeviceRows v) {
  RETURN_IF_ERROR(ExactWriteKv({PagesOf(step_), View(k), View(v), layer_.cache}, step_.stream));
  ASSIGN_OR_RETURN(const DeviceRows out, step_.buffers.attention.Rows(q.rows, q.cols));
  ExactAttentionArgs args;
  args.batch = PagesOf(step_);
  args.q = View(q);
  args.cache = layer_.cache;
  args.heads = layer_.weights.heads;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape().head_dim)));
  args.out = View(out);
  RETURN_IF_ERROR(ExactPagedAttention(args, step_.stream));
  return out;
}

absl::Status ExactBlocks::Attention(const AttentionChoices& choices) {
  StepContext& ctx = step_.ctx;
  if (ctx.tokens() == 0) return absl::OkStatus();
  ctx.meter.Enter(Phase::kAttention);
  const DeviceLayer& weights = layer_.weights;
  ASSIGN_OR_RETURN(const DeviceRows normed, NormResidual(step_, weights.input_norm));
  ASSIGN_OR_RETURN(const DeviceRows all, step_.buffers.qkv.Rows(ctx.tokens(), weights.qkv.outputs));
  RETURN_IF_ERROR(ProjectRows(step_, {normed, weights.qkv, kReductionSlices, all}));
  const int64_t q_width = static_cast<int64_t>(weights.heads) * ctx.shape.head_dim;
  const int64_t kv_width = static_cast<int64_t>(weights.kv_heads) * ctx.shape.head_dim;
  const DeviceRows q = all.Columns(0, q_width);
  const DeviceRows k = all.Columns(q_width, kv_width);
  const DeviceRows v = all.Columns(q_width + kv_width, kv_width);
  RETURN_IF_ERROR(NormAndRotate(choices.qk_norm, q, k));
  ASSIGN_OR_RETURN(const DeviceRows attended, AttendTokens(q, k, v));
  ASSIGN_OR_RETURN(const DeviceRows delta,
                   step_.buffers.delta.Rows(ctx.tokens(), ctx.shape.hidden));
  RETURN_IF_ERROR(ProjectRows(step_, {attended, weights.output, weights.output_slices, delta}));
  RETURN_IF_ERROR(SumOverTp(step_, delta, "attention_output", weights.layer));
  step_.delta_pending = true;
  return absl::OkStatus();
}

// ---- feed-forward

absl::Status ExactBlocks::RunFfn(ExactFfnArgs args) {
  const DeviceLayer& weights = layer_.weights;
  args.gate_up = weights.gate_up;
  args.down = weights.down;
  args.down_slices = weights.down_slices;
  ASSIGN_OR_RETURN(const DeviceRows inner, step_.buffers.inner.Rows(args.entries, weights.ffn));
  args.inner = inner.data;
  args.inner_stride = inner.stride;
  return ExactFfn(args, step_.stream);
}

absl::Status ExactBlocks::Dense() {
  StepContext& ctx = step_.ctx;
  if (ctx.tokens() == 0) return absl::OkStatus();
  ctx.meter.Enter(Phase::kExperts);
  const DeviceLayer& weights = layer_.weights;
  ASSIGN_OR_RETURN(const DeviceRows normed, NormResidual(step_, weights.ffn_norm));
  ASSIGN_OR_RETURN(const DeviceRows delta,
                   step_.buffers.delta.Rows(ctx.tokens(), ctx.shape.hidden));
  ExactFfnArgs args;
  args.x = normed.data;
  args.x_stride = normed.stride;
  args.entries = static_cast<int32_t>(ctx.tokens());
  args.out = delta.data;
  args.out_stride = delta.stride;
  RETURN_IF_ERROR(RunFfn(args));
  ctx.meter.AddWeightBytes(weights.gate_up.matrix_bytes + weights.down.matrix_bytes);
  RETURN_IF_ERROR(SumOverTp(step_, delta, "dense_ffn", weights.layer));
  step_.delta_pending = true;
  return absl::OkStatus();
}

// Chooses the experts of the batch's tokens; host and device get the choice, the host the normed
// rows.
absl::Status ExactBlocks::Route(const MoeChoices& choices) {
  StepContext& ctx = step_.ctx;
  const DeviceLayer& weights = layer_.weights;
  const int64_t tokens = ctx.tokens();
  ASSIGN_OR_RETURN(const DeviceRows normed, NormResidual(step_, weights.ffn_norm));
  ASSIGN_OR_RETURN(const DeviceRows logits,
                   step_.buffers.router.Rows(tokens, ctx.shape.moe.experts));
  RETURN_IF_ERROR(ProjectRows(step_, {normed, weights.router, kReductionSlices, logits}));
  const int64_t choices_bytes = tokens * ctx.shape.moe.top_k * 4;
  RETURN_IF_ERROR(step_.buffers.chosen.Reserve(choices_bytes));
  RETURN_IF_ERROR(step_.buffers.gate_weights.Reserve(choices_bytes));
  ExactGateArgs args;
  args.logits = logits.data;
  args.logits_stride = logits.stride;
  args.tokens = tokens;
  args.experts = ctx.shape.moe.experts;
  args.top_k = ctx.shape.moe.top_k;
  args.normalize = choices.normalize;
  args.chosen = static_cast<int32_t*>(step_.buffers.chosen.data());
  args.weights = static_cast<float*>(step_.buffers.gate_weights.data());
  RETURN_IF_ERROR(ExactGate(args, step_.stream));
  RETURN_IF_ERROR(CopyToHost(ctx.buffers.chosen.data(), args.chosen, choices_bytes, step_.stream));
  RETURN_IF_ERROR(
      CopyToHost(ctx.buffers.gate_weights.data(), args.weights, choices_bytes, step_.stream));
  return FetchRows(step_, normed, ctx.Normed().data);
}

// This rank's experts on the rows that came, its own among them: host rows [entries, hidden].
absl::StatusOr<RowsView> ExactBlocks::ComputeExperts(const DispatchedEntries& work) {
  StepContext& ctx = step_.ctx;
  const int64_t entries = static_cast<int64_t>(work.row_of_entry.size());
  const int64_t hidden = ctx.shape.hidden;
  const Rows out = ctx.buffers.computed.Take(entries, hidden);
  if (entries == 0) return RowsView{out.data, 0, hidden};
  SlotTable& table = ctx.buffers.slot_table;
  BuildSlotTable(work.slot_of_entry, layer_.weights.gate_up.matrices, table);
  ASSIGN_OR_RETURN(const DeviceRows rows,
                   step_.buffers.rows.Rows(work.rows.rows, work.rows.stride));
  RETURN_IF_ERROR(StoreRows(step_, work.rows.data, rows));
  ExactFfnArgs args;
  args.x = rows.data;
  args.x_stride = rows.stride;
  args.entries = static_cast<int32_t>(entries);
  ASSIGN_OR_RETURN(args.slot_first, step_.buffers.slot_first.Ints(table.first, step_.stream));
  ASSIGN_OR_RETURN(args.order, step_.buffers.order.Ints(table.order, step_.stream));
  ASSIGN_OR_RETURN(args.row_of_entry,
                   step_.buffers.row_of_entry.Ints(work.row_of_entry, step_.stream));
  ASSIGN_OR_RETURN(const DeviceRows computed, step_.buffers.computed.Rows(entries, hidden));
  args.out = computed.data;
  args.out_stride = computed.stride;
  RETURN_IF_ERROR(RunFfn(args));
  RETURN_IF_ERROR(FetchRows(step_, computed, out.data));
  CountExperts(table);
  return RowsView{out.data, entries, hidden};
}

void ExactBlocks::CountExperts(const SlotTable& table) {
  StepContext& ctx = step_.ctx;
  const DeviceLayer& weights = layer_.weights;
  for (size_t s = 0; s + 1 < table.first.size(); ++s) {
    const int32_t tokens = table.first[s + 1] - table.first[s];
    if (tokens == 0) continue;
    const ExpertUnit unit = layer_.units[s];
    ctx.result.experts.push_back({weights.layer, unit.expert, unit.slice, tokens});
    ctx.meter.AddWeightBytes(weights.gate_up.matrix_bytes + weights.down.matrix_bytes);
  }
}

absl::Status ExactBlocks::CombineRows(const CombinedParts& combined) {
  StepContext& ctx = step_.ctx;
  if (ctx.tokens() == 0) return absl::OkStatus();
  ASSIGN_OR_RETURN(const DeviceRows parts,
                   step_.buffers.parts.Rows(combined.parts.rows, combined.parts.stride));
  RETURN_IF_ERROR(StoreRows(step_, combined.parts.data, parts));
  if (combined.summed) {
    ASSIGN_OR_RETURN(const DeviceRows delta,
                     step_.buffers.delta.Rows(ctx.tokens(), ctx.shape.hidden));
    ExactGatherArgs gather;
    gather.x = parts.data;
    gather.x_stride = parts.stride;
    ASSIGN_OR_RETURN(gather.index, step_.buffers.part_row.Ints(combined.part_row, step_.stream));
    gather.out = View(delta);
    RETURN_IF_ERROR(ExactGatherRows(gather, step_.stream));
    CHECK_EQ(delta.stride, step_.hidden.stride);
    return ExactAdd(step_.hidden.data, delta.data, delta.rows * delta.stride, step_.stream);
  }
  ExactCombineArgs args;
  args.parts = parts.data;
  args.parts_stride = parts.stride;
  ASSIGN_OR_RETURN(args.part_row, step_.buffers.part_row.Ints(combined.part_row, step_.stream));
  args.weights = static_cast<const float*>(step_.buffers.gate_weights.data());
  args.top_k = ctx.shape.moe.top_k;
  args.slices = static_cast<int>(static_cast<int64_t>(combined.part_row.size()) /
                                 (ctx.tokens() * ctx.shape.moe.top_k));
  args.out = View(step_.hidden);
  return ExactCombine(args, step_.stream);
}

absl::Status ExactBlocks::Moe(const MoeChoices& choices) {
  StepContext& ctx = step_.ctx;
  CHECK(ctx.exchange != nullptr);
  ctx.buffers.chosen.resize(ctx.tokens() * ctx.shape.moe.top_k);
  ctx.buffers.gate_weights.resize(ctx.buffers.chosen.size());
  ctx.meter.Enter(Phase::kExperts);
  if (ctx.tokens() > 0) RETURN_IF_ERROR(Route(choices));
  ctx.meter.Enter(Phase::kExchange);
  const Rows normed = ctx.Normed();
  DispatchInput input;
  input.layer = layer_.weights.layer;
  input.tokens = {normed.data, ctx.tokens(), normed.stride};
  input.experts = ctx.buffers.chosen;
  input.tokens_by_dp = ctx.batch.plan().tokens_by_dp;
  input.weights = ctx.buffers.gate_weights;
  ASSIGN_OR_RETURN(const DispatchedEntries work, ctx.exchange->Dispatch(input));
  ctx.meter.Enter(Phase::kExperts);
  ASSIGN_OR_RETURN(const RowsView computed, ComputeExperts(work));
  ctx.meter.Enter(Phase::kExchange);
  ASSIGN_OR_RETURN(const CombinedParts combined, ctx.exchange->Combine(computed));
  ctx.meter.Enter(Phase::kExperts);
  return CombineRows(combined);
}

}  // namespace conclave
