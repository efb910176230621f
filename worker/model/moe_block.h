// The feed-forward half of a layer with experts: norm, router, gate, dispatch of rows to the ranks
// that hold the chosen experts, their FFN there, and the combine into the residual of the tokens'
// home ranks. Free function; engine's thread.
#pragma once

#include "absl/status/status.h"
#include "worker/model/layer_blocks.h"
#include "worker/model/step_context.h"

namespace conclave {

// Every rank of a stage calls it for every layer with experts, tokens or not: others' tokens go
// through its experts.
absl::Status MoeBlock(StepContext& ctx, LayerState& layer, const MoeChoices& choices);

}  // namespace conclave
