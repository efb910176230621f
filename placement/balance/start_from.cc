#include "placement/balance/start_from.h"

#include <algorithm>
#include <queue>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "glog/logging.h"

namespace conclave {
namespace {

// Drops copies until copies_max and the slots of every rank are kept; may leave experts without
// owners.
void DropSurplus(LayerState& state) {
  const LayerProblem& problem = state.problem();
  for (int e = 0; e < problem.experts(); ++e) {
    while (state.Copies(e) > problem.copies_max) {
      const auto slower = [&](int a, int b) {
        return std::pair(state.Time(a), a) < std::pair(state.Time(b), b);
      };
      state.Remove(e, *std::max_element(state.Owners(e).begin(), state.Owners(e).end(), slower));
    }
  }
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    while (static_cast<int>(state.ExpertsOf(rank).size()) > problem.slots[rank]) {
      const auto fewer = [&](int a, int b) {
        return std::pair(state.Copies(a), -a) < std::pair(state.Copies(b), -b);
      };
      const std::vector<int>& held = state.ExpertsOf(rank);
      state.Remove(*std::max_element(held.begin(), held.end(), fewer), rank);
    }
  }
}

// Puts an expert without owners where it is done first: in a free slot, or else in that of an
// expert with other copies.
void PlaceOrphan(int expert, LayerState& state) {
  const LayerProblem& problem = state.problem();
  int best_rank = -1, best_other = -1;
  std::pair<bool, double> best;  // takes another's slot, time
  for (int rank = 0; rank < problem.ranks(); ++rank) {
    const auto consider = [&](int other, double load) {
      const std::pair<bool, double> cost(other >= 0, load * problem.inverse_speed[rank]);
      if (best_rank >= 0 && cost >= best) return;
      std::tie(best, best_rank, best_other) = std::tuple(cost, rank, other);
    };
    const double load = state.Load(rank) + problem.weight[expert];
    if (state.HasFreeSlot(rank)) consider(-1, load);
    for (const int f : state.ExpertsOf(rank)) {
      if (state.Copies(f) > 1) consider(f, load - state.Share(f));
    }
  }
  CHECK_GE(best_rank, 0) << "fewer slots than experts";
  if (best_other >= 0) state.Remove(best_other, best_rank);
  state.Add(expert, best_rank);
}

}  // namespace

LayerState ReadMap(const LayerExperts& map, const LayerProblem& problem) {
  LayerState state(problem);
  for (int e = 0; e < problem.experts(); ++e) {
    std::vector<int> owners;
    for (const int32_t rank : map.Owners({e, 0})) {
      if (rank < problem.ranks()) owners.push_back(rank);
    }
    std::sort(owners.begin(), owners.end());
    owners.erase(std::unique(owners.begin(), owners.end()), owners.end());
    if (!owners.empty()) state.AddAll(e, owners);
  }
  return state;
}

LayerState StartFrom(const LayerState& current) {
  LayerState state = current;
  DropSurplus(state);
  std::vector<std::pair<double, int>> orphans;  // heaviest first
  for (int e = 0; e < state.problem().experts(); ++e) {
    if (state.Copies(e) == 0) orphans.emplace_back(-state.problem().weight[e], e);
  }
  std::sort(orphans.begin(), orphans.end());
  for (const auto& [minus, e] : orphans) PlaceOrphan(e, state);
  return state;
}

void RecountCopies(LayerState& state) {
  const LayerProblem& problem = state.problem();
  const auto after_loss = [&](int f) { return problem.weight[f] / (state.Copies(f) - 1); };
  std::set<std::pair<double, int>> givers;             // share after the loss, expert
  std::priority_queue<std::pair<double, int>> takers;  // share, -expert
  for (int e = 0; e < problem.experts(); ++e) {
    if (state.Copies(e) > 1) givers.emplace(after_loss(e), e);
    if (state.Copies(e) < problem.copies_max) takers.emplace(state.Share(e), -e);
  }
  // Each round lowers the largest share of a taker, so an expert never both gives and takes; the
  // bound is on rounds that find no slot.
  for (int64_t round = 0; round < problem.slots_total && !takers.empty(); ++round) {
    const auto [share, minus] = takers.top();
    const int e = -minus;
    takers.pop();
    if (givers.empty() || givers.begin()->first >= share * (1 - 1e-9)) return;
    const int f = givers.begin()->second;
    int best = -1;  // the slowest rank that has one and may have the other
    for (const int rank : state.Owners(f)) {
      if (state.Holds(e, rank)) continue;
      if (best < 0 || std::pair(state.Time(best), rank) < std::pair(state.Time(rank), best)) {
        best = rank;
      }
    }
    givers.erase(givers.begin());
    if (best < 0) {
      takers.emplace(share, minus);
      continue;
    }
    if (state.Copies(e) > 1) givers.erase({after_loss(e), e});
    state.Remove(f, best);
    state.Add(e, best);
    if (state.Copies(f) > 1) givers.emplace(after_loss(f), f);
    if (state.Copies(e) > 1) givers.emplace(after_loss(e), e);
    if (state.Copies(e) < problem.copies_max) takers.emplace(state.Share(e), -e);
  }
}

int64_t CopiesMoved(const LayerState& current, const LayerState& next) {
  int64_t moved = 0;
  for (int e = 0; e < next.problem().experts(); ++e) {
    for (const int rank : next.Owners(e)) moved += !current.Holds(e, rank);
  }
  return moved;
}

}  // namespace conclave
