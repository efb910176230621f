// Local refinement of an uneven candidate: moves layers between stages and shifts shares between
// classes of ranks, in ever smaller steps, until none makes the plan better. Pure; deterministic;
// any thread.
#pragma once

#include "placement/search/pricing.h"
#include "placement/search/shares.h"

namespace conclave {

struct RefineCounts {
  int priced = 0;
  int too_large = 0;
  int slo_missed = 0;
};

// Where to begin, and how many candidates to price at most.
struct RefineStart {
  Tilt tilt;  // `plan` was built from it
  PricedPlan plan;
  int evaluations_max = 0;
};

// The best of `start.plan` and what the moves from its tilt lead to.
PricedPlan Refine(const Pricer& pricer, const ShareBuilder& builder, RefineStart start,
                  RefineCounts* counts);

}  // namespace conclave
