// Where the copies of a wave are read from: the nearest holder, unless its link would make the wave
// longer and another's would not. Pure but for the state it is given; one thread.
#pragma once

#include "placement/migration/move_state.h"

namespace conclave {

// Sets `from` of each of state->wave_copies. Returns the wave's seconds. Every copy is readable.
double ChooseSources(MoveState* state);

}  // namespace conclave
