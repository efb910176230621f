// The attention half of a layer: norm, q/k/v projection, query-key norm and rotation, cache write,
// paged attention, output projection, sum over the tensor-parallel group. Leaves its result as the
// pending delta of the residual. Free function; engine's thread.
#pragma once

#include "absl/status/status.h"
#include "worker/model/layer_blocks.h"
#include "worker/model/step_context.h"

namespace conclave {

// All tp ranks of a dp group call it together; with no tokens it does nothing.
absl::Status AttentionBlock(StepContext& ctx, const LayerState& layer,
                            const AttentionChoices& choices);

}  // namespace conclave
