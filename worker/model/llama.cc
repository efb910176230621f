// Llama 2 and 3: grouped-query attention without query-key norm, dense SwiGLU. Llama 3.1's rescaled
// rotation is in the shape's rope, so the blocks need not know.
#include "comm/base/status.h"
#include "worker/model/model_table.h"

namespace conclave {

absl::Status LlamaLayer(LayerBlocks& blocks) {
  RETURN_IF_ERROR(blocks.Attention({QkNorm::kNone}));
  return blocks.Dense();
}

}  // namespace conclave
