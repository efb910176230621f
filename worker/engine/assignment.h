// What an engine derives from an Assign before it does anything: whether it can be obeyed, which
// weights it means, how large its cache pages are. Pure functions over values; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "comm/types/worker_facts.h"
#include "worker/engine/step_check.h"
#include "worker/kv/kv_pool.h"

namespace conclave {

// InvalidArgument names the field, its value and the remedy: a rank outside the plan, stages that
// do not cover the layers, an expert without an owner, a grid that does not fit the shape.
absl::Status CheckAssign(const Assign& assign);

// The weights that an assignment makes a rank hold. Equal keys mean equal ModelWeights, so a plan
// that changes only other ranks needs no load. Of a checked assignment.
struct WeightKey {
  ModelShape shape;  // its name left out
  ModelSource source;
  int tp = 0;
  int tp_size = 0;
  bool first_stage = false;
  bool last_stage = false;
  LayerRange layers;
  std::vector<std::vector<ExpertUnit>> units;  // of each layer of the stage
  ComputeOptions compute;
  bool operator==(const WeightKey&) const = default;
};
WeightKey WeightKeyOf(const Assign& assign);

// A lower bound of the bytes its weights take in memory, from the shape alone: refused before they
// are read when it is beyond the budget.
int64_t WeightBytesAtLeast(const Assign& assign);
// ResourceExhausted, with both figures and the remedy, when that is beyond `memory_bytes` (0: no
// bound).
absl::Status CheckWeightBudget(const Assign& assign, int64_t memory_bytes);

KvGeometry KvGeometryOf(const Assign& assign);

// What plans of an assignment may hold, given the pages of its cache.
StepLimits StepLimitsOf(const Assign& assign, int32_t kv_pages);

}  // namespace conclave
