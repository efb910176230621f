// What to say when a model fits no grid of a cluster: by how much the closest grid fails, and which
// remedies do make it fit. Pure functions; any thread.
#pragma once

#include "placement/search/grids.h"
#include "placement/search/pricing.h"

namespace conclave {

// ResourceExhausted: the closest grid's shortfall; then how many times the nodes, or which smaller
// weight format, would hold the model (each tried, not guessed). `grids`: all of them, none fits.
absl::Status TooLarge(const SearchInput& input, const std::vector<Grid>& grids);

// Whether some candidate of some grid fits: even, or with shares by memory.
bool AnyFits(const SearchInput& input, const std::vector<Grid>& grids);

}  // namespace conclave
