// Qwen3: as Llama, with an RMS norm over each query and key head before the rotation.
#include "comm/base/status.h"
#include "worker/model/model_table.h"

namespace conclave {

absl::Status Qwen3Layer(LayerBlocks& blocks) {
  RETURN_IF_ERROR(blocks.Attention({QkNorm::kPerHead}));
  return blocks.Dense();
}

}  // namespace conclave
