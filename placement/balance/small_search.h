// Deeper search for a layer that local search leaves above its lower bound: restarts from disturbed
// placements for any size, and branch and bound over all copy counts and assignments for a layer of
// few experts and ranks. Inside placement/balance; deterministic; any thread.
#pragma once

#include <cstdint>

#include "placement/balance/layer_state.h"

namespace conclave {

// Disturbs and refines `state` until the budget is spent, a number of rounds has brought nothing,
// or the lower bound is met; leaves the best placement in `state`.
void SearchAround(uint64_t seed, LayerState& state, int64_t& budget);

// True for sizes that SearchAll takes.
bool IsSmall(const LayerProblem& problem);
// Branch and bound: leaves in `state` a placement at most 0.1 % slower than the fastest, unless the
// budget (nodes) runs out; then the best it found. Never worse than `state` was.
void SearchAll(LayerState& state, int64_t& budget);

}  // namespace conclave
