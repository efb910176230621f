// What a rank of a pipeline and of a tensor-parallel group derives from its place, and how
// activations and sampled tokens travel between stages: shared by the models of all devices. Free
// functions; engine's thread.
#pragma once

#include <vector>

#include "comm/types/parallel_spec.h"
#include "kernels/rope/rope.h"
#include "worker/model/step_context.h"

namespace conclave {

RopeOptions RopeOptionsOf(const ModelShape& shape);

// The ranks of the dp group of `at` in its stage.
FabricGroup TpGroup(const ParallelSpec& spec, GridPosition at);

// Dense host rows from and to rank `peer`.
absl::Status ReceiveActivations(StepContext& ctx, int peer, Rows rows);
absl::Status SendActivations(StepContext& ctx, int peer, Rows rows);

// `tokens` [samples of the batch] become the next step's inputs of their requests.
absl::Status NoteSampled(const StepContext& ctx, const std::vector<int32_t>& tokens,
                         SampledBefore& before);

}  // namespace conclave
