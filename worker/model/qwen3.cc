// Qwen3: as Llama, with an RMS norm over each query and key head before the rotation.
#include "comm/base/status.h"
#include "worker/model/attention_block.h"
#include "worker/model/dense_block.h"
#include "worker/model/model_table.h"

namespace conclave {

absl::Status Qwen3Layer(StepContext& ctx, LayerState& layer) {
  RETURN_IF_ERROR(AttentionBlock(ctx, layer, {QkNorm::kPerHead}));
  return DenseBlock(ctx, layer);
}

}  // namespace conclave
