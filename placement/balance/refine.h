// Local search on one layer: again and again the slowest rank is made faster, by moving,
// exchanging, adding, replacing or dropping copies, until nothing helps or the search has cost
// enough. Inside placement/balance; deterministic; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/balance/layer_state.h"

namespace conclave {

struct RefineOptions {
  // Where copies are now: having them there again is free, and each step is the one that helps most
  // for each copy moved. nullptr: all moves are free, and each step is the one that helps most.
  const LayerState* current = nullptr;
  // The makespan at which the search ends; steps are not valued for going below it.
  double target = 1;
};

// Refines `state` and takes what it cost from `budget` (evaluated changes of a placement); stops
// when none is left.
void Refine(const RefineOptions& options, LayerState& state, int64_t& budget);

}  // namespace conclave
