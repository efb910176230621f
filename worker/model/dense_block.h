// The feed-forward half of a dense layer: norm, SwiGLU over this rank's slice of the intermediate
// width, sum over the tensor-parallel group. Leaves its result as the pending delta of the
// residual. Free function; engine's thread.
#pragma once

#include "absl/status/status.h"
#include "worker/model/step_context.h"

namespace conclave {

// All tp ranks of a dp group call it together; with no tokens it does nothing.
absl::Status DenseBlock(StepContext& ctx, const LayerState& layer);

}  // namespace conclave
