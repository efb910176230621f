#include "placement/migration/rank_bytes.h"

#include <algorithm>

namespace conclave {

RankBytes CountRankBytes(const MigrationInput& input) {
  const size_t ranks = input.ranks.size();
  RankBytes bytes{std::vector<int64_t>(ranks), std::vector<int64_t>(ranks),
                  std::vector<int64_t>(ranks)};
  int64_t all_units = 0;
  for (size_t layer = 0; layer < input.to.layers.size(); ++layer) {
    const int64_t unit_bytes = input.unit_bytes[layer];
    for (const int32_t rank : input.from.layers[layer].ranks()) bytes.before[rank] += unit_bytes;
    for (const int32_t rank : input.to.layers[layer].ranks()) bytes.after[rank] += unit_bytes;
    const LayerExperts& experts = input.to.layers[layer];
    all_units += unit_bytes * experts.experts() * experts.slices();
  }
  for (size_t r = 0; r < ranks; ++r) {
    bytes.capacity[r] = bytes.before[r] + std::min(input.ranks[r].free_bytes, all_units);
  }
  for (const int rank : input.lost) bytes.before[rank] = 0;
  return bytes;
}

}  // namespace conclave
