// A step that is larger than the kernels take at once is run as several pieces, one after the
// other: each a StepPlan of its own whose sequences go on where the piece before left them. Pure
// function; any thread.
#pragma once

#include <vector>

#include "comm/types/step_plan.h"

namespace conclave {

// Cuts `plan` into pieces of at most `tokens_max` tokens, in order. A sequence samples in the piece
// of its last token. One piece when it fits.
std::vector<StepPlan> CutIntoPieces(const StepPlan& plan, int32_t tokens_max, int32_t page_tokens);

}  // namespace conclave
