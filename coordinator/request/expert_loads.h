// ExpertLoads: how many tokens each expert of each layer has served lately, from the facts of all
// ranks, whatever the placement was: counts that halve every kHalfLifeTokens tokens of a layer, so
// that a change of the traffic shows. What `conclave plan --trace` and the balancer take. A value;
// one thread.
#pragma once

#include "absl/status/status.h"
#include "comm/types/model_shape.h"
#include "comm/types/step_result.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

class ExpertLoads {
 public:
  static constexpr double kHalfLifeTokens = 1 << 20;

  // Nothing counts for a dense model.
  explicit ExpertLoads(const ModelShape& shape);

  // A token that an expert serves in slices, on several ranks, counts once. InvalidArgument: a
  // layer, expert or count that the model has not; nothing of `result` is then counted.
  absl::Status Add(const StepResult& result);

  const LoadProfile& counts() const { return counts_; }  // [layers of the model, experts]

 private:
  double choices_per_token_ = 0;  // of a token: MoE layers times top_k
  LoadProfile counts_;
  double since_decay_ = 0;  // tokens
};

}  // namespace conclave
