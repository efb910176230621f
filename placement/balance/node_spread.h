// The nodes of a placement: how much of its traffic needs another node, and a pass that spreads the
// copies of an expert over nodes without slowing any layer down. Inside placement/balance; pure;
// deterministic; any thread.
#pragma once

#include <cstdint>

#include "placement/balance/layer_state.h"

namespace conclave {

// Load of a layer whose tokens have no copy of the expert they chose on the node of their home
// rank, over all its load; home ranks are even over ranks. A copy chosen by token index alone may
// cross more often; this is the part that no choice of copies avoids.
double CrossNodeShare(const LayerState& state);

// Exchanges copies between nodes while that lowers CrossNodeShare and leaves both ranks no slower
// than the slowest rank is. Takes what it cost from `budget` (pairs of copies looked at).
void SpreadOverNodes(LayerState& state, int64_t& budget);

}  // namespace conclave
