// For tests of weights: the shapes of the golden checkpoints, written out, and plans over them.
// Pure; any thread.
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "comm/types/worker_facts.h"

namespace conclave {

// Of tests/golden/<name>: "llama", "llama31", "qwen3", "mixtral", "olmoe", "qwen3_moe".
ModelShape GoldenShapeOf(absl::string_view name);

// The folder of that checkpoint as a test finds it.
std::string GoldenPath(absl::string_view name);

// Rank `rank` of a plan of `spec` ("tp=2,dp=2"): layers cut evenly, expert e's slice s on the stage
// rank that a walk over the units in order reaches.
Assign MakeAssign(const ModelShape& shape, absl::string_view spec, int rank);

}  // namespace conclave
