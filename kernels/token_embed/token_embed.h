// token_embed: the residual stream's first rows, from the table of token embeddings on the device.
// A token is given as such or as "the one last sampled in that slot", so that a decode step needs
// nothing from the host. A token outside the (possibly vocabulary-sliced) table gives zeros, as
// kernels/embedding does. The caller owns all memory; any thread, on its current device;
// capturable. Bytes: tokens * hidden * (2 read + 4 written).
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

struct TokenEmbedArgs {
  int32_t tokens = 0;
  WeightView table;                       // bf16 [vocabulary rows, hidden], hidden a multiple of 8
  int32_t first_row = 0;                  // the token of the table's first row
  const int32_t* token_id = nullptr;      // [tokens], where the source is -1
  const int32_t* token_source = nullptr;  // [tokens] -1 or an index of last_tokens; none: all -1
  const int32_t* last_tokens = nullptr;   // [slots]
  float* residual = nullptr;              // [tokens, hidden]
};
absl::Status TokenEmbed(const TokenEmbedArgs& args, CudaStream stream, bool dependent);

// The same on the host's memory.
void TokenEmbedRef(const TokenEmbedArgs& args);

}  // namespace conclave
