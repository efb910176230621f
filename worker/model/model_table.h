// The layer of each architecture, and the switch that finds it. A layer function is a short list of
// blocks: what an architecture chooses, and nothing else. To add one: a file <name>.cc beside
// these, a line here, a case in model_table.cc. Pure functions; engine's thread.
#pragma once

#include "absl/status/status.h"
#include "comm/types/model_shape.h"
#include "worker/model/layer_blocks.h"

namespace conclave {

// Runs one layer on the residual stream. Every rank of a stage calls it for every layer, tokens or
// not.
using LayerFunction = absl::Status (*)(LayerBlocks& blocks);

absl::Status LlamaLayer(LayerBlocks& blocks);
absl::Status Qwen3Layer(LayerBlocks& blocks);
absl::Status MixtralLayer(LayerBlocks& blocks);
absl::Status OlmoeLayer(LayerBlocks& blocks);
absl::Status Qwen3MoeLayer(LayerBlocks& blocks);

LayerFunction LayerOf(Architecture architecture);

}  // namespace conclave
