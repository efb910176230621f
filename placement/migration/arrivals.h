// Which unit each rank should take last when its free space does not take all it misses. Space
// moves backwards along the copies: a rank that takes a unit uses up space, and the rank that may
// drop the unit gains it. So the order at each rank decides whether the space can come back while
// units are still missing. README.md has the proof that this order needs no detour for units of one
// size. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/migration/move_state.h"

namespace conclave {

// [ranks] a unit of ranks[r].missing, or -1: in any order.
std::vector<int32_t> LastArrivals(const MoveState& state);

}  // namespace conclave
