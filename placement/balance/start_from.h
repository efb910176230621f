// The map of today as a start for the next one: read, brought within the slots there are now, and
// compared with what came of it. Inside placement/balance; pure; any thread.
#pragma once

#include <cstdint>

#include "comm/types/expert_map.h"
#include "placement/balance/layer_state.h"

namespace conclave {

// The copies of `map` whose ranks still exist. It may have more copies than slots, or experts
// without owners.
LayerState ReadMap(const LayerExperts& map, const LayerProblem& problem);

// `current` with what the slots and copies_max do not allow dropped, experts of many copies first,
// and experts without owners placed where they are done first.
LayerState StartFrom(const LayerState& current);

// Gives copies from experts with small shares to those with the largest, slot by slot, until that
// no longer lowers the largest: the step that refinement cannot take when it makes ranks slower
// until other copies have moved, too.
void RecountCopies(LayerState& state);

// Copies of `next` whose rank does not hold them in `current`.
int64_t CopiesMoved(const LayerState& current, const LayerState& next);

}  // namespace conclave
