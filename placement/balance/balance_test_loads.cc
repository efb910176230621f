#include "placement/balance/balance_test_loads.h"

#include <cmath>
#include <numeric>
#include <utility>

namespace conclave {

LoadProfile SkewedLoad(int layers, int experts, double exponent, uint64_t seed) {
  LoadProfile load(layers, experts);
  Rng rng(seed);
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<int> order(experts);
    std::iota(order.begin(), order.end(), 0);
    for (int i = experts - 1; i > 0; --i) std::swap(order[i], order[rng.Below(i + 1)]);
    for (int i = 0; i < experts; ++i) {
      load.Add(layer, order[i], 1e6 * std::pow(i + 1, -exponent) * (0.75 + 0.5 * rng.Uniform()));
    }
  }
  return load;
}

LoadProfile Drifted(const LoadProfile& load, double share, uint64_t seed) {
  LoadProfile result(load.layers(), load.experts());
  Rng rng(seed);
  for (int layer = 0; layer < load.layers(); ++layer) {
    for (int e = 0; e < load.experts(); ++e) {
      result.Add(layer, e, load.at(layer, e) * (1 + share * (2 * rng.Uniform() - 1)));
    }
  }
  return result;
}

std::vector<BalanceRank> EvenRanks(int ranks, int slots, int node_ranks) {
  std::vector<BalanceRank> result;
  for (int i = 0; i < ranks; ++i) result.push_back({i / node_ranks, slots, 1});
  return result;
}

SmallInstance DrawSmallInstance(uint64_t seed) {
  Rng rng(seed);
  const int experts = 6 + static_cast<int>(rng.Below(5));
  const int ranks = 3 + static_cast<int>(rng.Below(2));
  SmallInstance result;
  result.load = LoadProfile(1, experts);
  const double exponent = 2 * rng.Uniform();
  for (int e = 0; e < experts; ++e) {
    result.load.Add(0, e, std::pow(1 + rng.Below(experts), -exponent) * (0.5 + rng.Uniform()));
  }
  const bool uneven_speeds = rng.Chance(1, 3), uneven_slots = rng.Chance(1, 2);
  const int extra = static_cast<int>(rng.Below(experts));
  const int slots = (experts + extra + ranks - 1) / ranks;
  for (int i = 0; i < ranks; ++i) {
    const double speed = uneven_speeds ? 0.5 + rng.Uniform() : 1;
    result.ranks.push_back({i / 2, slots, speed});
  }
  if (uneven_slots && slots > 1) {
    --result.ranks[0].slots;
    ++result.ranks[ranks - 1].slots;
  }
  return result;
}

}  // namespace conclave
