#include "placement/migration/rank_groups.h"

#include <algorithm>
#include <numeric>

namespace conclave {

RankGroups::RankGroups(const MoveState& state) : parent_(state.ranks.size()) {
  std::iota(parent_.begin(), parent_.end(), 0);
  for (int r = 0; r < static_cast<int>(state.ranks.size()); ++r) {
    for (const int32_t u : state.ranks[r].missing) {
      const MovingUnit& unit = state.units[u];
      for (const Holder& holder : unit.holders) {
        if (!holder.wanted) Join(holder.rank, r);
      }
      // Who waits for the first copy from a store.
      if (unit.holders.empty()) Join(unit.missing.front(), r);
    }
  }
}

int RankGroups::Of(int rank) {
  while (parent_[rank] != rank) {
    parent_[rank] = parent_[parent_[rank]];
    rank = parent_[rank];
  }
  return rank;
}

void RankGroups::Join(int a, int b) {
  a = Of(a);
  b = Of(b);
  parent_[std::max(a, b)] = std::min(a, b);
}

std::vector<char> RankGroups::Moving(const MoveState& state) {
  std::vector<char> moving(state.ranks.size());
  for (int r = 0; r < static_cast<int>(state.ranks.size()); ++r) {
    const std::vector<int32_t>& missing = state.ranks[r].missing;
    const bool takes = std::any_of(missing.begin(), missing.end(), [&](int32_t u) {
      return state.Fits(u, r) && state.Readable(state.units[u], r);
    });
    if (takes) moving[Of(r)] = true;
  }
  for (const UnitMove& drop : state.wave_drops) moving[Of(drop.to)] = true;
  for (size_t i = 0; i < state.wave_copies.size(); ++i) {
    moving[Of(state.wave_copies[i].to)] = true;
    for (const Holder& holder : state.units[state.wave_copied[i]].holders) {
      if (!holder.wanted) moving[Of(holder.rank)] = true;
    }
  }
  return moving;
}

}  // namespace conclave
