// The layer of each architecture, and the switch that finds it. A layer function is a short list of
// blocks: what an architecture chooses, and nothing else. To add one: a file <name>.cc beside
// these, a line here, a case in model_table.cc. Pure functions; engine's thread.
#pragma once

#include "absl/status/status.h"
#include "worker/model/step_context.h"

namespace conclave {

// Runs one layer on ctx.buffers.hidden. Every rank of a stage calls it for every layer, tokens or
// not.
using LayerFunction = absl::Status (*)(StepContext& ctx, LayerState& layer);

absl::Status LlamaLayer(StepContext& ctx, LayerState& layer);
absl::Status Qwen3Layer(StepContext& ctx, LayerState& layer);
absl::Status MixtralLayer(StepContext& ctx, LayerState& layer);
absl::Status OlmoeLayer(StepContext& ctx, LayerState& layer);
absl::Status Qwen3MoeLayer(StepContext& ctx, LayerState& layer);

LayerFunction LayerOf(Architecture architecture);

}  // namespace conclave
