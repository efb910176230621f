// CheckSimulateInput: everything that a forecast takes from outside, checked before it is used, so
// that a broken file or flag is an error with a remedy and never a crash. Pure; any thread.
#pragma once

#include "absl/status/status.h"
#include "placement/forecast/forecast.h"

namespace conclave {

// InvalidArgument names the field, its value and the remedy.
absl::Status CheckSimulateInput(const SimulateInput& input);
// The part about the candidate: grid, devices, stages and shares that fit the model and cluster.
absl::Status CheckSimulateCandidate(const ModelDims& model, const ClusterTopology& cluster,
                                    const Candidate& candidate);

}  // namespace conclave
