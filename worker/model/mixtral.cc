// Mixtral: Llama's attention; experts in every layer, the weights of the chosen ones scaled to sum
// to 1.
#include "comm/base/status.h"
#include "worker/model/attention_block.h"
#include "worker/model/model_table.h"
#include "worker/model/moe_block.h"

namespace conclave {

absl::Status MixtralLayer(StepContext& ctx, LayerState& layer) {
  RETURN_IF_ERROR(AttentionBlock(ctx, layer, {QkNorm::kNone}));
  return MoeBlock(ctx, layer, {/*normalize=*/true});
}

}  // namespace conclave
