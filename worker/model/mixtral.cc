// Mixtral: Llama's attention; experts in every layer, the weights of the chosen ones scaled to sum
// to 1.
#include "comm/base/status.h"
#include "worker/model/model_table.h"

namespace conclave {

absl::Status MixtralLayer(LayerBlocks& blocks) {
  RETURN_IF_ERROR(blocks.Attention({QkNorm::kNone}));
  return blocks.Moe({/*normalize=*/true});
}

}  // namespace conclave
