// Expert maps and routings for tests of the exchange: even spreads and random, uneven ones with
// copies. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/rng.h"
#include "comm/types/expert_map.h"

namespace conclave {

// Unit u lives on rank u * stage_size / units: neighbours together, each rank the same number if it
// divides.
LayerExperts EvenMap(int experts, int slices, int stage_size);

// Each unit has 1 to copies_max owners, drawn at random; some ranks may own nothing.
LayerExperts RandomMap(int experts, int slices, int stage_size, int copies_max, Rng& rng);

// [tokens * top_k] distinct experts for each token.
std::vector<int32_t> RandomRouting(int tokens, int top_k, int experts, Rng& rng);

}  // namespace conclave
