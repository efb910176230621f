// Load profiles and clusters for the tests and the bench of expert balancing, drawn from a seed.
// Tests only; pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/rng.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

// Expert loads that fall as rank^-exponent (0: even, 1: Zipf's law), in an order drawn for each
// layer, each times 0.75 to 1.25.
LoadProfile SkewedLoad(int layers, int experts, double exponent, uint64_t seed);

// Every load times 1 - share to 1 + share.
LoadProfile Drifted(const LoadProfile& load, double share, uint64_t seed);

// `ranks` of speed 1 with `slots` each, `node_ranks` to a node.
std::vector<BalanceRank> EvenRanks(int ranks, int slots, int node_ranks);

struct SmallInstance {
  LoadProfile load;
  std::vector<BalanceRank> ranks;
};
// 6 to 10 experts over 3 or 4 ranks: skewed loads, slots with and without extra copies, even and
// uneven slots and speeds.
SmallInstance DrawSmallInstance(uint64_t seed);

}  // namespace conclave
