// The last resort: an exhaustive search over who holds what, for inputs so small that it ends.
// There it finds the plan with the fewest bytes, or proves that none exists. One thread.
#pragma once

#include "placement/migration/move_state.h"

namespace conclave {

// Runs `state`, which is before its first wave, to its end. False: no plan, or too many states.
bool SearchMoves(MoveState* state);

}  // namespace conclave
