// Qwen3-MoE: Qwen3's attention; experts in every layer but those that the config lists as dense
// (mlp_only_layers, decoder_sparse_step); whether the weights of the chosen ones are scaled to sum
// to 1 is the config's norm_topk_prob.
#include "comm/base/status.h"
#include "worker/model/attention_block.h"
#include "worker/model/dense_block.h"
#include "worker/model/model_table.h"
#include "worker/model/moe_block.h"

namespace conclave {

absl::Status Qwen3MoeLayer(StepContext& ctx, LayerState& layer) {
  RETURN_IF_ERROR(AttentionBlock(ctx, layer, {QkNorm::kPerHead}));
  if (!ctx.shape.IsMoeLayer(layer.weights->layer)) return DenseBlock(ctx, layer);
  return MoeBlock(ctx, layer, {ctx.shape.moe.normalize_top_k});
}

}  // namespace conclave
