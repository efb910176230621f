#include "comm/exchange/exchange_test_maps.h"

#include <algorithm>

namespace conclave {

LayerExperts EvenMap(int experts, int slices, int stage_size) {
  const int units = experts * slices;
  std::vector<std::vector<int32_t>> owners;
  for (int unit = 0; unit < units; ++unit) {
    owners.push_back({static_cast<int32_t>(static_cast<int64_t>(unit) * stage_size / units)});
  }
  return LayerExperts(slices, owners);
}

LayerExperts RandomMap(int experts, int slices, int stage_size, int copies_max, Rng& rng) {
  std::vector<std::vector<int32_t>> owners(experts * slices);
  for (std::vector<int32_t>& ranks : owners) {
    const int copies = 1 + static_cast<int>(rng.Below(copies_max));
    for (int i = 0; i < copies; ++i) ranks.push_back(static_cast<int32_t>(rng.Below(stage_size)));
    std::sort(ranks.begin(), ranks.end());
    ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  }
  return LayerExperts(slices, owners);
}

std::vector<int32_t> RandomRouting(int tokens, int top_k, int experts, Rng& rng) {
  std::vector<int32_t> chosen;
  std::vector<int32_t> all(experts);
  for (int i = 0; i < experts; ++i) all[i] = i;
  for (int token = 0; token < tokens; ++token) {
    for (int choice = 0; choice < top_k; ++choice) {
      std::swap(all[choice], all[choice + rng.Below(experts - choice)]);
      chosen.push_back(all[choice]);
    }
  }
  return chosen;
}

}  // namespace conclave
