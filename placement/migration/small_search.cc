#include "placement/migration/small_search.h"

#include <algorithm>
#include <bit>
#include <cstdint>
#include <functional>
#include <optional>
#include <queue>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// A state is a bit for each (unit, rank): the rank holds the unit.
using Mask = uint64_t;
constexpr size_t kBits = 64;
constexpr size_t kStatesMax = 20'000;  // some 20 ms

// How a state was reached.
struct Step {
  Mask previous = 0;
  int64_t bytes = 0;  // copied so far
  bool closed = false;
};

// A* (Hart, Nilsson, Raphael 1968) by bytes copied; the estimate, bytes of the units that ranks
// must hold and do not, never exceeds what is left to copy.
class MoveSearch {
 public:
  explicit MoveSearch(const MoveState& state);
  // The states from the start to the new map, both included. nullopt: none, or too many states.
  std::optional<std::vector<Mask>> Run();

 private:
  Mask Bit(size_t unit, size_t rank) const { return Mask{1} << (unit * ranks_ + rank); }
  Mask Holders(Mask mask, size_t unit) const { return mask & (row_ << (unit * ranks_)); }
  int64_t Missing(Mask mask) const;
  int64_t FreeOf(Mask mask, size_t rank) const;
  void Expand(Mask mask);
  void Offer(Mask from, Mask to, int64_t bytes);
  std::vector<Mask> PathTo(Mask mask) const;

  const MoveState& state_;
  size_t ranks_;
  Mask row_;  // of one unit's ranks
  Mask start_ = 0;
  Mask goal_ = 0;
  std::vector<int64_t> capacity_;  // [ranks]
  absl::flat_hash_map<Mask, Step> steps_;
  // Estimated bytes to the goal, -bytes so far (so that the deepest of equals goes first), state.
  using Entry = std::tuple<int64_t, int64_t, Mask>;
  std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> open_;
};

MoveSearch::MoveSearch(const MoveState& state)
    : state_(state), ranks_(state.ranks.size()), row_((Mask{2} << (ranks_ - 1)) - 1) {
  for (const MovingRank& rank : state.ranks) capacity_.push_back(rank.lost ? 0 : rank.free);
  for (size_t u = 0; u < state.units.size(); ++u) {
    for (const Holder& holder : state.units[u].holders) {
      start_ |= Bit(u, holder.rank);
      if (holder.wanted) goal_ |= Bit(u, holder.rank);
      capacity_[holder.rank] += state.units[u].bytes;
    }
    for (const int32_t rank : state.units[u].missing) goal_ |= Bit(u, rank);
  }
}

int64_t MoveSearch::Missing(Mask mask) const {
  int64_t bytes = 0;
  for (Mask left = goal_ & ~mask; left != 0; left &= left - 1) {
    bytes += state_.units[std::countr_zero(left) / ranks_].bytes;
  }
  return bytes;
}

int64_t MoveSearch::FreeOf(Mask mask, size_t rank) const {
  int64_t free = capacity_[rank];
  for (size_t u = 0; u < state_.units.size(); ++u) {
    if ((mask & Bit(u, rank)) != 0) free -= state_.units[u].bytes;
  }
  return free;
}

void MoveSearch::Offer(Mask from, Mask to, int64_t bytes) {
  const auto [step, fresh] = steps_.try_emplace(to, Step{from, bytes, false});
  if (!fresh && (step->second.closed || step->second.bytes <= bytes)) return;
  step->second = {from, bytes, false};
  open_.emplace(bytes + Missing(to), -bytes, to);
}

void MoveSearch::Expand(Mask mask) {
  const int64_t bytes = steps_[mask].bytes;
  for (size_t rank = 0; rank < ranks_; ++rank) {
    if (state_.ranks[rank].lost) continue;
    const bool store = state_.input->ranks[rank].store_bandwidth > 0;
    const int64_t free = FreeOf(mask, rank);
    for (size_t u = 0; u < state_.units.size(); ++u) {
      const Mask holders = Holders(mask, u);
      if ((mask & Bit(u, rank)) != 0) {
        if (std::popcount(holders) > 1) Offer(mask, mask & ~Bit(u, rank), bytes);
      } else if (state_.units[u].bytes <= free && (store || holders != 0)) {
        Offer(mask, mask | Bit(u, rank), bytes + state_.units[u].bytes);
      }
    }
  }
}

std::vector<Mask> MoveSearch::PathTo(Mask mask) const {
  std::vector<Mask> path = {mask};
  while (path.back() != start_) path.push_back(steps_.at(path.back()).previous);
  std::reverse(path.begin(), path.end());
  return path;
}

std::optional<std::vector<Mask>> MoveSearch::Run() {
  Offer(start_, start_, 0);
  while (!open_.empty() && steps_.size() < kStatesMax) {
    const Mask mask = std::get<2>(open_.top());
    open_.pop();
    if (std::exchange(steps_[mask].closed, true)) continue;
    if (mask == goal_) return PathTo(mask);
    Expand(mask);
  }
  return std::nullopt;
}

// One change of one bit, in this wave if that is safe and else in the next.
void Apply(Mask before, Mask after, MoveState* state) {
  const int bit = std::countr_zero(before ^ after);
  const int unit = bit / static_cast<int>(state->ranks.size());
  const int rank = bit % static_cast<int>(state->ranks.size());
  const auto copyable = [&] {
    return state->Fits(unit, rank) && state->Readable(state->units[unit], rank);
  };
  const auto droppable = [&] {
    const std::vector<Holder>& holders = state->units[unit].holders;
    const bool landed = std::any_of(holders.begin(), holders.end(), [&](const Holder& holder) {
      return holder.rank == rank && holder.landed < state->wave;
    });
    return landed && state->HeldElsewhere(state->units[unit], rank);
  };
  const bool copies = (after & ~before) != 0;
  if (copies ? !copyable() : !droppable()) CHECK(state->EndWave());
  if (copies) {
    state->Copy(unit, rank);
  } else {
    state->Drop(unit, rank);
  }
}

}  // namespace

bool SearchMoves(MoveState* state) {
  if (state->units.empty() || state->units.size() * state->ranks.size() > kBits) return false;
  const auto path = MoveSearch(*state).Run();
  if (!path.has_value()) return false;
  for (size_t i = 0; i + 1 < path->size(); ++i) Apply((*path)[i], (*path)[i + 1], state);
  state->EndWave();
  return true;
}

}  // namespace conclave
