// The exact makespan of one small layer, by mixed-integer programming with CBC: what the tests of
// BalanceExperts compare it with. Tests only; one call at a time.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

struct OptimalMakespan {
  double makespan = 0;  // of the best placement found, as LayerMakespan measures
  double bound = 0;     // proven: no placement is below; equal to it when the solver was done
};

// Minimises over all placements with 1 to min(ranks, copies_max) copies of each expert, at most
// `slots` on a rank. Internal: the solver found none.
absl::StatusOr<OptimalMakespan> SolveExactly(const LoadProfile& load, int layer,
                                             const std::vector<BalanceRank>& ranks, int copies_max,
                                             double seconds_max);

}  // namespace conclave
