// OLMoE: query-key norm over the whole projected width (all heads of a token at once); experts in
// every layer, their softmax weights as they are unless the config asks to normalize them.
#include "comm/base/status.h"
#include "worker/model/model_table.h"

namespace conclave {

absl::Status OlmoeLayer(LayerBlocks& blocks) {
  RETURN_IF_ERROR(blocks.Attention({QkNorm::kFullWidth}));
  return blocks.Moe({blocks.shape().moe.normalize_top_k});
}

}  // namespace conclave
