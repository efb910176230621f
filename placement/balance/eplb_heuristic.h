// DeepSeek's published expert-parallel load balancer (EPLB), from its description: replicate the
// experts with the largest load per copy until the slots are used, then pack copies into ranks,
// largest first. The yardstick that BalanceExperts is measured against; tests only; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "placement/balance/expert_balance.h"

namespace conclave {

struct EplbShape {
  int ranks = 0;
  int slots = 0;   // of each rank
  int nodes = 1;   // of equally many ranks, in order
  int groups = 1;  // of equally many experts, in order; a multiple of nodes
};

// The experts of a rank; unlike BalanceExperts it may give a rank two copies of one.
using EplbLayer = std::vector<std::vector<int>>;  // [ranks][slots]

// Replicates and packs over all ranks alike.
EplbLayer EplbGlobal(const LoadProfile& load, int layer, const EplbShape& shape);
// Packs groups of experts to nodes, replicates within each node, packs to its ranks.
EplbLayer EplbHierarchical(const LoadProfile& load, int layer, const EplbShape& shape);

// Busiest rank's load over the mean.
double EplbMakespan(const LoadProfile& load, int layer, const EplbLayer& experts);
// Slots of `next` that their rank does not already hold in `current`.
int64_t EplbMoved(const EplbLayer& current, const EplbLayer& next);

}  // namespace conclave
