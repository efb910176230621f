// The surest way to move: all units gather at one rank that has room for all of them, the others
// drop what they need not hold, and take what they miss. It costs the most bytes, and always works.
// One thread.
#pragma once

#include "placement/migration/move_state.h"

namespace conclave {

// Runs `state`, which is before its first wave, to its end, through the first rank with that much
// room (and a store, if units have no live holder). False: there is no such rank.
bool GatherAndSpread(MoveState* state);

}  // namespace conclave
