// TokenRouting: the experts of a step's tokens, drawn as a router with the load profile's shares
// would choose them: top_k different ones for each token, tokens independent. What real traffic
// adds to it, tokens of one text choosing alike, it does not know. A table per layer, built once
// (alias method, Walker 1977). Immutable but for the caller's Rng and scratch; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/rng.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

// Draws experts of one layer.
class ExpertSampler {
 public:
  // `weights`: [experts], not negative; all zero counts as uniform.
  explicit ExpertSampler(const std::vector<double>& weights);

  // Appends `top_k` different experts for each of `tokens` tokens; top_k <= experts. Those without
  // weight come only when the others are used up.
  void Draw(int64_t tokens, int top_k, Rng& rng, std::vector<int32_t>& out) const;

 private:
  int32_t DrawOne(Rng& rng) const;
  // Exact, in time of the experts, for what rejection would take too long to find.
  int32_t DrawRest(const int32_t* chosen, int count, Rng& rng) const;

  std::vector<double> weights_;
  std::vector<uint32_t> keep_;  // [experts] of 2^32: chance to stay here
  std::vector<int32_t> other_;  // [experts] else go there
};

// [layers] of `load`; one uniform layer over `experts` for a load without layers.
std::vector<ExpertSampler> SamplersOf(const LoadProfile& load, int experts);

// Whole tokens of each dp group: `tokens` rounded (at least 1), split by `shares` to the largest
// remainders, ties to the lower group.
std::vector<int64_t> SplitTokens(double tokens, const std::vector<double>& shares);

}  // namespace conclave
