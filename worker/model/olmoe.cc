// OLMoE: query-key norm over the whole projected width (all heads of a token at once); experts in
// every layer, their softmax weights as they are unless the config asks to normalize them.
#include "comm/base/status.h"
#include "worker/model/attention_block.h"
#include "worker/model/model_table.h"
#include "worker/model/moe_block.h"

namespace conclave {

absl::Status OlmoeLayer(StepContext& ctx, LayerState& layer) {
  RETURN_IF_ERROR(AttentionBlock(ctx, layer, {QkNorm::kFullWidth}));
  return MoeBlock(ctx, layer, {ctx.shape.moe.normalize_top_k});
}

}  // namespace conclave
