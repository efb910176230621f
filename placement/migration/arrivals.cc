#include "placement/migration/arrivals.h"

#include <algorithm>

namespace conclave {
namespace {

// The free bytes of each rank at the end.
std::vector<int64_t> FinalFree(const MoveState& state) {
  std::vector<int64_t> free(state.ranks.size());
  for (size_t r = 0; r < free.size(); ++r) {
    free[r] = state.ranks[r].free - state.ranks[r].missing_bytes;
    for (const int32_t u : state.ranks[r].set_aside) free[r] -= state.units[u].bytes;
  }
  for (const MovingUnit& unit : state.units) {
    for (const Holder& holder : unit.holders) {
      if (!holder.wanted) free[holder.rank] += unit.bytes;
    }
  }
  return free;
}

bool AnyWanted(const MovingUnit& unit) {
  return std::any_of(unit.holders.begin(), unit.holders.end(),
                     [](const Holder& holder) { return holder.wanted; });
}

}  // namespace

std::vector<int32_t> LastArrivals(const MoveState& state) {
  constexpr int32_t kUnreached = -2;
  const int ranks = static_cast<int>(state.ranks.size());
  std::vector<int32_t> last(ranks, kUnreached);
  std::vector<int32_t> queue;
  const auto reach = [&](int rank, int32_t unit) {
    if (last[rank] != kUnreached) return;
    last[rank] = unit;
    queue.push_back(rank);
  };
  const std::vector<int64_t> final_free = FinalFree(state);
  for (int r = 0; r < ranks; ++r) {
    if (final_free[r] > 0) reach(r, -1);
  }
  // The first rank that misses a unit without a lasting holder is the one whose copy frees the old
  // holder; all other copies free nothing, and so may be last.
  std::vector<int32_t> frees(state.units.size(), -1);
  struct Leaving {
    int32_t unit;
    int32_t next;  // of the same rank; -1: the end
  };
  std::vector<Leaving> leaving;
  std::vector<int32_t> first_leaving(ranks, -1);  // [ranks] into leaving
  for (int r = 0; r < ranks; ++r) {
    for (const int32_t u : state.ranks[r].missing) {
      const MovingUnit& unit = state.units[u];
      if (frees[u] >= 0 || unit.holders.empty() || AnyWanted(unit)) {
        reach(r, u);
        continue;
      }
      frees[u] = r;
      for (const Holder& holder : unit.holders) {
        leaving.push_back({u, first_leaving[holder.rank]});
        first_leaving[holder.rank] = static_cast<int32_t>(leaving.size() - 1);
      }
    }
  }
  for (size_t head = 0; head < queue.size(); ++head) {
    for (int32_t i = first_leaving[queue[head]]; i >= 0; i = leaving[i].next) {
      reach(frees[leaving[i].unit], leaving[i].unit);
    }
  }
  std::replace(last.begin(), last.end(), kUnreached, -1);
  return last;
}

}  // namespace conclave
