#include "comm/types/expert_map.h"

#include <algorithm>
#include <utility>

#include "glog/logging.h"

namespace conclave {

LayerExperts::LayerExperts(int slices, const std::vector<std::vector<int32_t>>& owners)
    : slices_(slices) {
  CHECK_GT(slices, 0);
  CHECK_EQ(owners.size() % slices, 0u);
  for (const std::vector<int32_t>& ranks : owners) {
    CHECK(!ranks.empty()) << "an expert slice without an owner";
    CHECK(std::is_sorted(ranks.begin(), ranks.end()));
    ranks_.insert(ranks_.end(), ranks.begin(), ranks.end());
    first_.push_back(static_cast<int32_t>(ranks_.size()));
  }
}

std::vector<ExpertUnit> LayerExperts::UnitsOf(int stage_rank) const {
  std::vector<ExpertUnit> units;
  for (int expert = 0; expert < experts(); ++expert) {
    for (int slice = 0; slice < slices_; ++slice) {
      const auto owners = Owners({expert, slice});
      if (std::binary_search(owners.begin(), owners.end(), stage_rank)) {
        units.push_back({expert, slice});
      }
    }
  }
  return units;
}

LayerExperts LayerExperts::FromTables(int slices, std::vector<int32_t> first,
                                      std::vector<int32_t> ranks) {
  LayerExperts result;
  result.slices_ = slices;
  result.first_ = std::move(first);
  result.ranks_ = std::move(ranks);
  return result;
}

}  // namespace conclave
