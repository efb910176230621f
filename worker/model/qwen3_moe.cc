// Qwen3-MoE: Qwen3's attention; experts in every layer but those that the config lists as dense
// (mlp_only_layers, decoder_sparse_step); whether the weights of the chosen ones are scaled to sum
// to 1 is the config's norm_topk_prob.
#include "comm/base/status.h"
#include "worker/model/model_table.h"

namespace conclave {

absl::Status Qwen3MoeLayer(LayerBlocks& blocks) {
  RETURN_IF_ERROR(blocks.Attention({QkNorm::kPerHead}));
  if (!blocks.HasExperts()) return blocks.Dense();
  return blocks.Moe({blocks.shape().moe.normalize_top_k});
}

}  // namespace conclave
