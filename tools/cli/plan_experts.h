// Which rank owns which expert in a priced plan: neighbours together by the candidate's shares, or
// a placement balanced for a measured load. Pure; deterministic; any thread.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "placement/balance/expert_balance.h"
#include "placement/cost/cost_model.h"

namespace conclave {

struct PlacedExperts {
  ExpertMap map;                  // [layers of the model]; dense layers have no experts
  double makespan_in_blocks = 1;  // mean over layers: busiest rank over its fair share, unbalanced
  double makespan = 1;            // the same of `map`
  double makespan_max = 1;        // of the worst layer
};

// `load`: MoE layers x experts; one without layers: neighbours stay together. Errors are those of
// ReplanExperts.
absl::StatusOr<PlacedExperts> PlaceExperts(const ModelDims& model, const ClusterTopology& cluster,
                                           const Candidate& candidate, const LoadProfile& load);

// Busiest rank's load over the load that its share of the experts stands for, mean over the load's
// layers, for the map that the candidate's shares stand for.
double BlockMakespan(const Candidate& candidate, const LoadProfile& load);

}  // namespace conclave
