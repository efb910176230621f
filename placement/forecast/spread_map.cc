#include "placement/forecast/spread_map.h"

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace conclave {

std::vector<int> ExpertsOfGroups(const Candidate& candidate, int experts) {
  const int slices = std::max(1, candidate.spec.slices);
  const int groups = std::max(1, candidate.spec.StageSize() / slices);
  std::vector<double> shares(groups, 0);
  double sum = 0;
  for (size_t rank = 0; rank < candidate.expert_shares.size(); ++rank) {
    const int group = static_cast<int>(rank) / slices;
    if (group < groups) shares[group] += candidate.expert_shares[rank];
    sum += candidate.expert_shares[rank];
  }
  double copies = experts;
  if (sum > 1 + 1e-6) copies *= sum;  // less is rounding, not a copy
  if (!(sum > 0)) {
    shares.assign(groups, 1.0);
    sum = groups;
  }
  // Cumulative rounding, so that counts add up and neighbours differ by the fraction only.
  std::vector<int> counts;
  double before = 0;
  int64_t placed = 0;
  for (const double share : shares) {
    const int64_t from = std::llround(before);
    before += share / sum * copies;
    const int64_t wanted = std::llround(before) - from;
    counts.push_back(static_cast<int>(std::clamp<int64_t>(wanted, 0, experts)));
    placed += counts.back();
  }
  // A cap, or shares of nothing, may have left some out.
  for (size_t g = 0; placed < experts; g = (g + 1) % counts.size()) {
    if (counts[g] == experts) continue;
    ++counts[g];
    ++placed;
  }
  return counts;
}

LayerExperts MapOfGroups(const std::vector<std::vector<int>>& groups_of, int slices) {
  std::vector<std::vector<int32_t>> owners;
  for (const std::vector<int>& groups : groups_of) {
    for (int slice = 0; slice < slices; ++slice) {
      owners.emplace_back();
      for (const int group : groups) owners.back().push_back(group * slices + slice);
      std::sort(owners.back().begin(), owners.back().end());
    }
  }
  return LayerExperts(slices, owners);
}

LayerExperts SpreadMap(const Candidate& candidate, int experts) {
  const std::vector<int> counts = ExpertsOfGroups(candidate, experts);
  std::vector<std::vector<int>> groups_of(experts);
  int next = 0;
  for (size_t group = 0; group < counts.size(); ++group) {
    for (int i = 0; i < counts[group]; ++i) {
      groups_of[next].push_back(static_cast<int>(group));
      next = (next + 1) % experts;
    }
  }
  return MapOfGroups(groups_of, std::max(1, candidate.spec.slices));
}

}  // namespace conclave
