#include "worker/model/attention_block.h"

#include <cmath>

#include "comm/base/reduction.h"
#include "comm/base/status.h"
#include "kernels/rms_norm/rms_norm.h"
#include "kernels/rope/rope.h"

namespace conclave {
namespace {

// Queries, keys and values of the batch, side by side in one buffer.
struct Qkv {
  Rows q;
  Rows k;
  Rows v;
};

Qkv SplitQkv(Rows all, const AttentionWeights& weights, int head_dim) {
  const int64_t q = static_cast<int64_t>(weights.heads) * head_dim;
  const int64_t kv = static_cast<int64_t>(weights.kv_heads) * head_dim;
  return {{all.data, all.rows, q, all.stride},
          {all.data + q, all.rows, kv, all.stride},
          {all.data + q + kv, all.rows, kv, all.stride}};
}

// OLMoE: one norm over all heads of a token, which are spread over the tp group: each rank's part
// of the sums of squares, added over the group in the fixed tree, gives every rank the whole row's
// sum.
absl::Status NormFullWidth(StepContext& ctx, const LayerState& layer, const Qkv& qkv) {
  const AttentionWeights& weights = layer.weights->attention;
  const int slices = kReductionSlices / ctx.tp.size();
  const Rows sums = ctx.buffers.qk_sums.Take(2, ctx.tokens());
  const auto q_sums = absl::MakeSpan(sums.row(0), ctx.tokens());
  const auto k_sums = absl::MakeSpan(sums.row(1), ctx.tokens());
  SumSquares(qkv.q, slices, q_sums);
  SumSquares(qkv.k, slices, k_sums);
  RETURN_IF_ERROR(SumOverTp(ctx, sums, "qk_norm", layer.weights->layer));
  const float epsilon = ctx.shape.norm_epsilon;
  const int64_t head_dim = ctx.shape.head_dim;
  ScaleByRms(qkv.q, q_sums, ctx.shape.heads * head_dim, weights.q_norm, epsilon, qkv.q);
  ScaleByRms(qkv.k, k_sums, ctx.shape.kv_heads * head_dim, weights.k_norm, epsilon, qkv.k);
  return absl::OkStatus();
}

absl::Status NormAndRotate(StepContext& ctx, const LayerState& layer, QkNorm norm, const Qkv& qkv) {
  if (norm == QkNorm::kFullWidth) RETURN_IF_ERROR(NormFullWidth(ctx, layer, qkv));
  RopeArgs args;
  args.head_dim = ctx.shape.head_dim;
  args.positions = ctx.batch.positions();
  args.frequencies = ctx.rope_frequencies;
  args.norm_epsilon = ctx.shape.norm_epsilon;
  const bool per_head = norm == QkNorm::kPerHead;
  args.x = qkv.q;
  if (per_head) args.norm_weight = layer.weights->attention.q_norm;
  NormRope(args);
  args.x = qkv.k;
  if (per_head) args.norm_weight = layer.weights->attention.k_norm;
  NormRope(args);
  return absl::OkStatus();
}

}  // namespace

absl::Status AttentionBlock(StepContext& ctx, const LayerState& layer,
                            const AttentionChoices& choices) {
  if (ctx.tokens() == 0) return absl::OkStatus();
  ctx.meter.Enter(Phase::kAttention);
  const AttentionWeights& weights = layer.weights->attention;
  const int head_dim = ctx.shape.head_dim;
  NormResidual(ctx, weights.input_norm);

  const Rows all = ctx.buffers.qkv.Take(ctx.tokens(), weights.qkv.outputs());
  Project(ctx, ctx.Normed(), weights.qkv, all);
  const Qkv qkv = SplitQkv(all, weights, head_dim);
  RETURN_IF_ERROR(NormAndRotate(ctx, layer, choices.qk_norm, qkv));
  WriteKv(ctx.batch.paged(), qkv.k, qkv.v, layer.cache);

  AttentionArgs args;
  args.batch = ctx.batch.paged();
  args.q = qkv.q;
  args.cache = layer.cache;
  args.heads = weights.heads;
  args.scale = static_cast<float>(1.0 / std::sqrt(static_cast<double>(head_dim)));
  args.out = ctx.buffers.attention.Take(ctx.tokens(), qkv.q.cols);
  PagedAttention(args, ctx.pool);

  Project(ctx, args.out, weights.output, ctx.Delta());
  RETURN_IF_ERROR(SumOverTp(ctx, ctx.Delta(), "attention_output", layer.weights->layer));
  ctx.delta_pending = true;
  return absl::OkStatus();
}

}  // namespace conclave
