#include "comm/base/dtype.h"
#include "kernels/token_embed/token_embed.h"

namespace conclave {

void TokenEmbedRef(const TokenEmbedArgs& args) {
  const WeightView& table = args.table;
  const auto* tiles = static_cast<const uint16_t*>(table.data);
  for (int64_t t = 0; t < args.tokens; ++t) {
    const int32_t source = args.token_source == nullptr ? -1 : args.token_source[t];
    const int64_t row =
        int64_t{source < 0 ? args.token_id[t] : args.last_tokens[source]} - args.first_row;
    for (int64_t k = 0; k < table.inputs; ++k) {
      float& out = args.residual[t * table.inputs + k];
      out = 0;
      if (row < 0 || row >= table.outputs) continue;
      out = Bf16ToFloat(tiles[TiledIndex(row, k, table.input_tiles(), 2)]) + 0.0f;
    }
  }
}

}  // namespace conclave
