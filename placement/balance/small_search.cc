#include "placement/balance/small_search.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <numeric>
#include <tuple>
#include <utility>
#include <vector>

#include "comm/base/rng.h"
#include "glog/logging.h"
#include "placement/balance/refine.h"

namespace conclave {
namespace {

constexpr int kRoundsIdleMost = 60;
constexpr double kDone = 1e-4;
constexpr int kRanksMost = 6;
constexpr int kExpertsMost = 16;
constexpr double kGap = 1e-3;

// A few changes at random: exchanges, and copies that come or go.
void Disturb(Rng& rng, LayerState& state) {
  const LayerProblem& problem = state.problem();
  const int changes = 2 + static_cast<int>(rng.Below(4));
  for (int i = 0; i < changes; ++i) {
    const int e = static_cast<int>(rng.Below(problem.experts()));
    const int from = state.Owners(e)[rng.Below(state.Copies(e))];
    const int to = static_cast<int>(rng.Below(problem.ranks()));
    if (state.Holds(e, to)) {
      if (state.Copies(e) > 1) state.Remove(e, to);
      continue;
    }
    const bool add = state.Copies(e) < problem.copies_max && rng.Chance(1, 2);
    if (state.HasFreeSlot(to)) {
      if (!add) state.Remove(e, from);
      state.Add(e, to);
      continue;
    }
    if (problem.slots[to] == 0) continue;
    const int f = state.ExpertsOf(to)[rng.Below(state.ExpertsOf(to).size())];
    if (state.Copies(f) > 1) {
      state.Remove(f, to);
      if (!add) state.Remove(e, from);
      state.Add(e, to);
    } else if (!state.Holds(f, from)) {
      state.Remove(e, from);
      state.Remove(f, to);
      state.Add(e, to);
      state.Add(f, from);
    }
  }
}

class Branches {
 public:
  Branches(LayerState& state, int64_t& budget)
      : state_(state), problem_(state.problem()), budget_(budget), best_(state.Makespan()) {
    order_.resize(problem_.experts());
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int a, int b) { return problem_.weight[a] > problem_.weight[b]; });
    left_.resize(order_.size() + 1);
    for (int i = problem_.experts() - 1; i >= 0; --i) {
      left_[i] = left_[i + 1] + problem_.weight[order_[i]];
    }
    load_.resize(problem_.ranks());
    free_ = problem_.slots;
    chosen_.resize(order_.size());
  }

  void Run() {
    Descend(0);
    if (found_.empty()) return;
    LayerState result(problem_);
    for (int i = 0; i < problem_.experts(); ++i) {
      std::vector<int> ranks;
      for (int rank = 0; rank < problem_.ranks(); ++rank) {
        if ((found_[i] >> rank) & 1) ranks.push_back(rank);
      }
      result.AddAll(order_[i], ranks);
    }
    state_ = std::move(result);
  }

 private:
  // Depth is at most the experts, kExpertsMost.
  void Descend(int i) {
    if (i == problem_.experts()) {
      best_ = Peak();
      found_ = chosen_;
      return;
    }
    std::vector<std::pair<double, uint32_t>> children;  // bound, mask of ranks
    const uint32_t masks = uint32_t{1} << problem_.ranks();
    for (uint32_t mask = 1; mask < masks; ++mask) {
      if (!IsFit(i, mask)) continue;
      Place(i, mask, 1);
      const double bound = Bound(i + 1);
      Place(i, mask, -1);
      if (bound < best_ * (1 - kGap)) children.emplace_back(bound, mask);
    }
    std::sort(children.begin(), children.end());
    for (const auto& [bound, mask] : children) {
      if (bound >= best_ * (1 - kGap) || --budget_ < 0) return;
      Place(i, mask, 1);
      chosen_[i] = mask;
      Descend(i + 1);
      Place(i, mask, -1);
    }
  }

  bool IsFit(int i, uint32_t mask) const {
    const int copies = std::popcount(mask);
    if (copies > problem_.copies_max) return false;
    int free = -copies;
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      free += free_[rank];
      if (((mask >> rank) & 1) == 0) continue;
      if (free_[rank] == 0) return false;
      // Of ranks that are alike only the first are taken.
      for (int other = 0; other < rank; ++other) {
        if (((mask >> other) & 1) == 0 && free_[other] == free_[rank] &&
            load_[other] == load_[rank] &&
            problem_.inverse_speed[other] == problem_.inverse_speed[rank]) {
          return false;
        }
      }
    }
    return free >= problem_.experts() - i - 1;
  }

  void Place(int i, uint32_t mask, int sign) {
    const double share = sign * problem_.weight[order_[i]] / std::popcount(mask);
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      if (((mask >> rank) & 1) == 0) continue;
      load_[rank] += share;
      free_[rank] -= sign;
    }
  }

  double Peak() const {
    double peak = 0;
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      peak = std::max(peak, load_[rank] * problem_.inverse_speed[rank]);
    }
    return peak;
  }

  // What is left from expert i on spreads over the ranks that have a slot.
  double Bound(int i) const {
    double load = left_[i], speed = 0;
    for (int rank = 0; rank < problem_.ranks(); ++rank) {
      if (free_[rank] == 0) continue;
      load += load_[rank];
      speed += 1 / problem_.inverse_speed[rank];
    }
    return speed > 0 ? std::max(Peak(), load / speed) : Peak();
  }

  LayerState& state_;
  const LayerProblem& problem_;
  int64_t& budget_;
  double best_;
  std::vector<int> order_;                // experts, heaviest first
  std::vector<double> left_;              // [experts + 1]: weight from a position of order_ on
  std::vector<double> load_;              // [ranks]
  std::vector<int> free_;                 // [ranks]
  std::vector<uint32_t> chosen_, found_;  // [experts] in order_: masks of ranks
};

}  // namespace

void SearchAround(uint64_t seed, LayerState& state, int64_t& budget) {
  const LayerProblem& problem = state.problem();
  Rng rng(seed);
  LayerState trial = state;
  double best = state.Makespan();
  for (int idle = 0; idle < kRoundsIdleMost && budget > 0; ++idle) {
    if (best <= problem.time_least * (1 + kDone)) return;
    Disturb(rng, trial);
    Refine(RefineOptions(), trial, budget);
    const double makespan = trial.Makespan();
    if (makespan < best * (1 - 1e-9)) {
      best = makespan;
      state = trial;
      idle = 0;
    } else if (makespan > best * 1.05) {
      trial = state;
    }
  }
}

bool IsSmall(const LayerProblem& problem) {
  return problem.ranks() <= kRanksMost && problem.experts() <= kExpertsMost;
}

void SearchAll(LayerState& state, int64_t& budget) { Branches(state, budget).Run(); }

}  // namespace conclave
