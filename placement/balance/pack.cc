#include "placement/balance/pack.h"

#include <algorithm>
#include <numeric>
#include <queue>
#include <tuple>
#include <utility>

#include "glog/logging.h"

namespace conclave {
namespace {

// Shares below this part of the ideal time are not cut further: a packing of such shares is within
// a few percent of even, and more copies would only fill memory.
constexpr double kShareLeast = 1.0 / 16;

// The ranks with a free slot, by the time at which they would be done with one more copy.
class FreeRanks {
 public:
  explicit FreeRanks(const LayerProblem& problem) : problem_(problem) {
    std::vector<int> seen(problem.node_ranks.size());
    for (int rank = 0; rank < problem.ranks(); ++rank) {
      turn_.push_back(seen[problem.node[rank]]++);
      if (problem.slots[rank] > 0) speeds_.push_back(problem.inverse_speed[rank]);
    }
    std::sort(speeds_.begin(), speeds_.end());
    speeds_.erase(std::unique(speeds_.begin(), speeds_.end()), speeds_.end());
    queues_.resize(speeds_.size());
    for (int rank = 0; rank < problem.ranks(); ++rank) {
      if (problem.slots[rank] > 0) Push(rank, 0);
    }
  }

  void Push(int rank, double load) {
    const auto speed =
        std::lower_bound(speeds_.begin(), speeds_.end(), problem_.inverse_speed[rank]);
    queues_[speed - speeds_.begin()].push({load, turn_[rank], rank});
  }

  // Takes out the rank that would be done first with `share` more; -1: none is left.
  int Pop(double share) {
    int best = -1;
    double best_time = 0;
    for (size_t i = 0; i < queues_.size(); ++i) {
      if (queues_[i].empty()) continue;
      const double time = (queues_[i].top().load + share) * speeds_[i];
      if (best < 0 || time < best_time) std::tie(best, best_time) = std::pair(int(i), time);
    }
    if (best < 0) return -1;
    const int rank = queues_[best].top().rank;
    queues_[best].pop();
    return rank;
  }

 private:
  struct Entry {
    double load;
    int turn;  // place within its node, so that equal ranks are taken node by node in turns
    int rank;
    bool operator<(const Entry& other) const {  // the top of a queue is the largest
      return std::tie(other.load, other.turn, other.rank) < std::tie(load, turn, rank);
    }
  };
  const LayerProblem& problem_;
  std::vector<int> turn_;
  std::vector<double> speeds_;  // the different inverse speeds
  std::vector<std::priority_queue<Entry>> queues_;
};

}  // namespace

LayerState PackLargestFirst(const LayerProblem& problem, const std::vector<int>& copies) {
  std::vector<int> order(problem.experts());
  std::iota(order.begin(), order.end(), 0);
  const auto share = [&](int e) { return problem.weight[e] / copies[e]; };
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return share(a) > share(b); });
  LayerState state(problem);
  FreeRanks free(problem);
  for (const int e : order) {
    std::vector<int> ranks;
    for (int i = 0; i < copies[e]; ++i) {
      const int rank = free.Pop(share(e));
      if (rank < 0) break;
      ranks.push_back(rank);
    }
    CHECK(!ranks.empty()) << "fewer slots than copies";
    state.AddAll(e, ranks);
    for (const int rank : ranks) {
      if (state.HasFreeSlot(rank)) free.Push(rank, state.Load(rank));
    }
  }
  return state;
}

LayerState PackFresh(const LayerProblem& problem) {
  const auto even = [](const auto& values) {
    return std::adjacent_find(values.begin(), values.end(), std::not_equal_to<>()) == values.end();
  };
  LayerState best =
      PackLargestFirst(problem, SpreadCopies(problem, problem.slots_total, kShareLeast));
  if (even(problem.slots) && even(problem.inverse_speed)) return best;
  double makespan = best.Makespan();
  const int64_t extra = problem.slots_total - problem.experts();
  for (const int eighths : {0, 1, 2, 4, 6, 7}) {
    LayerState state = PackLargestFirst(
        problem, SpreadCopies(problem, problem.experts() + extra * eighths / 8, kShareLeast));
    if (state.Makespan() >= makespan) continue;
    makespan = state.Makespan();
    best = std::move(state);
  }
  return best;
}

LayerState Relabel(const LayerState& state, const LayerState& current) {
  const LayerProblem& problem = state.problem();
  const int ranks = problem.ranks();
  // Copies in common of a rank of `state` and a rank of `current` that could take its place.
  std::vector<int> common(ranks);
  std::vector<std::tuple<int, int, int>> pairs;  // -common, rank of state, rank of current
  for (int from = 0; from < ranks; ++from) {
    std::vector<int> touched;
    for (const int e : state.ExpertsOf(from)) {
      for (const int to : current.Owners(e)) {
        if (problem.slots[from] != problem.slots[to] ||
            problem.inverse_speed[from] != problem.inverse_speed[to]) {
          continue;
        }
        if (common[to]++ == 0) touched.push_back(to);
      }
    }
    for (const int to : touched) {
      pairs.emplace_back(-common[to], from, to);
      common[to] = 0;
    }
  }
  std::sort(pairs.begin(), pairs.end());
  std::vector<int> place(ranks, -1), taken(ranks);
  for (const auto& [minus, from, to] : pairs) {
    if (place[from] >= 0 || taken[to]) continue;
    place[from] = to;
    taken[to] = 1;
  }
  // The rest keep their order within equal ranks.
  for (int from = 0; from < ranks; ++from) {
    for (int to = 0; place[from] < 0; ++to) {
      CHECK_LT(to, ranks);
      if (taken[to] || problem.slots[from] != problem.slots[to] ||
          problem.inverse_speed[from] != problem.inverse_speed[to]) {
        continue;
      }
      place[from] = to;
      taken[to] = 1;
    }
  }
  LayerState result(problem);
  for (int e = 0; e < problem.experts(); ++e) {
    std::vector<int> owners;
    for (const int rank : state.Owners(e)) owners.push_back(place[rank]);
    result.AddAll(e, owners);
  }
  return result;
}

}  // namespace conclave
