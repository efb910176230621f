#include "placement/balance/node_spread.h"

#include <algorithm>
#include <tuple>
#include <utility>
#include <vector>

namespace conclave {
namespace {

class Spread {
 public:
  Spread(LayerState& state, int64_t& budget)
      : state_(state), problem_(state.problem()), budget_(budget), limit_(state.Makespan()) {
    const size_t nodes = problem_.node_ranks.size();
    copies_.resize(nodes * problem_.experts());
    for (int e = 0; e < problem_.experts(); ++e) {
      for (const int rank : state_.Owners(e)) ++Copies(e, rank);
    }
  }

  void Run() {
    const int nodes = problem_.node_ranks.size();
    if (nodes == 1) return;
    // Hot experts first: their rows are the most.
    std::vector<std::pair<double, int>> order;
    for (int e = 0; e < problem_.experts(); ++e) order.emplace_back(-problem_.weight[e], e);
    std::sort(order.begin(), order.end());
    for (const auto& [minus, e] : order) {
      std::vector<int> owners = state_.Owners(e);
      std::sort(owners.begin(), owners.end());
      for (const int rank : owners) {
        if (budget_ <= 0) return;
        if (Copies(e, rank) > 1 && NodesOf(e) < nodes) MoveOff(e, rank);
      }
    }
  }

 private:
  int& Copies(int e, int rank) {
    return copies_[static_cast<size_t>(e) * problem_.node_ranks.size() + problem_.node[rank]];
  }
  int NodesOf(int e) const {
    const auto first = copies_.begin() + static_cast<size_t>(e) * problem_.node_ranks.size();
    return std::count_if(first, first + problem_.node_ranks.size(), [](int n) { return n > 0; });
  }
  // Load that gains a copy on its node when `e` comes to that of `to` and leaves that of `from`.
  double Gain(int e, int from, int to) {
    double gain = 0;
    if (Copies(e, to) == 0) gain += problem_.node_ranks[problem_.node[to]];
    if (Copies(e, from) == 1) gain -= problem_.node_ranks[problem_.node[from]];
    return gain * problem_.weight[e];
  }
  bool IsFit(int rank, double change) const {
    return (state_.Load(rank) + change) * problem_.inverse_speed[rank] <= limit_;
  }

  // The best place on another node for the copy of `e` on `rank`, by exchange or in a free slot.
  void MoveOff(int e, int rank) {
    const double share = state_.Share(e);
    double best = 0;
    int best_rank = -1, best_other = -1;
    for (int to = 0; to < problem_.ranks(); ++to) {
      if (problem_.node[to] == problem_.node[rank] || Copies(e, to) > 0) continue;
      const double gain = Gain(e, rank, to);
      budget_ -= 1 + state_.ExpertsOf(to).size();
      if (gain <= best) continue;
      if (state_.HasFreeSlot(to) && IsFit(to, share)) {
        std::tie(best, best_rank, best_other) = std::tuple(gain, to, -1);
      }
      for (const int f : state_.ExpertsOf(to)) {
        const double change = share - state_.Share(f);
        if (state_.Holds(f, rank) || !IsFit(to, change) || !IsFit(rank, -change)) continue;
        const double both = gain + Gain(f, to, rank);
        if (both <= best) continue;
        std::tie(best, best_rank, best_other) = std::tuple(both, to, f);
      }
    }
    if (best_rank < 0) return;
    if (best_other >= 0) state_.Remove(best_other, best_rank);
    state_.Remove(e, rank);
    state_.Add(e, best_rank);
    if (best_other >= 0) state_.Add(best_other, rank);
    --Copies(e, rank);
    ++Copies(e, best_rank);
    if (best_other < 0) return;
    --Copies(best_other, best_rank);
    ++Copies(best_other, rank);
  }

  LayerState& state_;
  const LayerProblem& problem_;
  int64_t& budget_;
  double limit_;
  std::vector<int> copies_;  // [experts * nodes]
};

}  // namespace

double CrossNodeShare(const LayerState& state) {
  const LayerProblem& problem = state.problem();
  double total = 0, cross = 0;
  std::vector<int> seen(problem.node_ranks.size(), -1);
  for (int e = 0; e < problem.experts(); ++e) {
    int near = 0;
    for (const int rank : state.Owners(e)) {
      const int node = problem.node[rank];
      if (std::exchange(seen[node], e) != e) near += problem.node_ranks[node];
    }
    total += problem.weight[e];
    cross += problem.weight[e] * (problem.ranks() - near) / problem.ranks();
  }
  return cross / total;
}

void SpreadOverNodes(LayerState& state, int64_t& budget) { Spread(state, budget).Run(); }

}  // namespace conclave
