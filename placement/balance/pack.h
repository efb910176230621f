// A placement from nothing: how many copies each expert gets, and a first packing of them that is
// good enough to refine. Also the relabelling of ranks that brings such a placement close to
// another one. Inside placement/balance; pure; any thread.
#pragma once

#include <vector>

#include "placement/balance/layer_state.h"

namespace conclave {

// Packs `copies` of each expert (their sum is at most the slots), largest share first, each into
// the rank that would be done first. An expert for which too few ranks have a free slot gets fewer
// copies, at least one.
LayerState PackLargestFirst(const LayerProblem& problem, const std::vector<int>& copies);

// The best of a few packings with fewer and more copies in all: with uneven slots or speeds, it can
// be better to leave slots of slow ranks empty.
LayerState PackFresh(const LayerProblem& problem);

// `state` with ranks of equal slots and speed exchanged so that many copies stay where `current`
// has them.
LayerState Relabel(const LayerState& state, const LayerState& current);

}  // namespace conclave
