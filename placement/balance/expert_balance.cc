#include "placement/balance/expert_balance.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "placement/balance/layer_state.h"
#include "placement/balance/node_spread.h"
#include "placement/balance/pack.h"
#include "placement/balance/refine.h"
#include "placement/balance/small_search.h"
#include "placement/balance/start_from.h"

namespace conclave {
namespace {

// Costs over all layers and of one at most, in evaluated changes (about 3 ns each), so that 61
// layers of 384 experts over 1,024 ranks take under 2 s on one core.
constexpr int64_t kChangesAll = 120'000'000;
constexpr int64_t kChangesLayer = 10'000'000;
constexpr int64_t kPairsAll = 120'000'000;
constexpr int64_t kPairsLayer = 10'000'000;
constexpr int64_t kNodesAll = 20'000'000;
constexpr int64_t kNodesLayer = 1'000'000;
// Beyond this a rank's time would lose its digits.
constexpr double kSpeedRatioMost = 1e6;
// A gain that is more than rounding.
constexpr double kGainLeast = 1e-9;
// So much better than a fresh packing, in ideal times, a new plan is to be at least.
constexpr double kBelowPacked = 2e-4;

absl::Status CheckRanks(const std::vector<BalanceRank>& ranks, int experts) {
  int64_t slots = 0;
  double least = 0, most = 0;
  for (size_t i = 0; i < ranks.size(); ++i) {
    const BalanceRank& rank = ranks[i];
    if (rank.slots < 0) {
      return absl::InvalidArgumentError(absl::StrCat("ranks[", i, "].slots is ", rank.slots,
                                                     ": give the experts it can hold, 0 or more"));
    }
    if (!std::isfinite(rank.speed) || rank.speed <= 0) {
      return absl::InvalidArgumentError(absl::StrCat("ranks[", i, "].speed is ", rank.speed,
                                                     ": give a speed above 0; 1 if all are alike"));
    }
    slots += std::min(rank.slots, experts);
    least = i == 0 ? rank.speed : std::min(least, rank.speed);
    most = std::max(most, rank.speed);
  }
  if (most / kSpeedRatioMost > least) {
    return absl::InvalidArgumentError(
        absl::StrCat("speeds of ranks go from ", least, " to ", most, ", a ratio over ",
                     kSpeedRatioMost, ": leave the slow ranks out, or give them no slots"));
  }
  if (slots < experts) {
    return absl::InvalidArgumentError(absl::StrCat("the ", ranks.size(), " ranks have ", slots,
                                                   " slots for ", experts,
                                                   " experts: give them more slots, or add ranks"));
  }
  return absl::OkStatus();
}

absl::Status CheckLoad(const LoadProfile& load) {
  for (int layer = 0; layer < load.layers(); ++layer) {
    for (int e = 0; e < load.experts(); ++e) {
      const double count = load.at(layer, e);
      if (std::isfinite(count) && count >= 0) continue;
      return absl::InvalidArgumentError(
          absl::StrCat("the load of layer ", layer, ", expert ", e, " is ", count,
                       ": counts are finite and 0 or more; measure the profile anew"));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const BalanceOptions& options) {
  if (!std::isfinite(options.move_gain_least) || options.move_gain_least < 0) {
    return absl::InvalidArgumentError(absl::StrCat("move_gain_least is ", options.move_gain_least,
                                                   ": give a share of 0 or more"));
  }
  if (options.copies_max < 0) {
    return absl::InvalidArgumentError(absl::StrCat("copies_max is ", options.copies_max,
                                                   ": give 0 for one owner each, or the copies"));
  }
  return absl::OkStatus();
}

absl::Status CheckCurrent(const LoadProfile& load, const ExpertMap& current) {
  if (current.layers.empty()) return absl::OkStatus();
  if (current.layers.size() != static_cast<size_t>(load.layers())) {
    return absl::InvalidArgumentError(absl::StrCat("the current map has ", current.layers.size(),
                                                   " layers and the load profile ", load.layers(),
                                                   ": give the MoE layers of one model in both"));
  }
  for (int layer = 0; layer < load.layers(); ++layer) {
    const LayerExperts& map = current.layers[layer];
    if (map.slices() != 1 || map.experts() != load.experts()) {
      return absl::InvalidArgumentError(
          absl::StrCat("layer ", layer, " of the current map has ", map.experts(), " experts in ",
                       map.slices(), " slices and the load profile ", load.experts(),
                       " experts: balance whole experts, or the groups that hold their slices"));
    }
    // Tables that came over the wire: rows in order, within the table.
    const std::vector<int32_t>& first = map.first();
    const auto& ranks = map.ranks();
    if (first.front() != 0 || !std::is_sorted(first.begin(), first.end()) ||
        static_cast<size_t>(first.back()) != ranks.size() ||
        std::any_of(ranks.begin(), ranks.end(), [](int32_t rank) { return rank < 0; })) {
      return absl::InvalidArgumentError(absl::StrCat(
          "layer ", layer, " of the current map is no table of owners: fetch the map anew"));
    }
  }
  return absl::OkStatus();
}

struct Budgets {
  explicit Budgets(int layers)
      : changes(std::min(kChangesLayer, kChangesAll / layers)),
        pairs(std::min(kPairsLayer, kPairsAll / layers)),
        nodes(std::min(kNodesLayer, kNodesAll / layers)) {}
  int64_t changes;
  int64_t pairs;
  int64_t nodes;
};

// Refined to what the budgets allow.
LayerState Refined(LayerState state, Budgets budgets) {
  Refine(RefineOptions(), state, budgets.changes);
  SearchAround(/*seed=*/1, state, budgets.changes);
  if (IsSmall(state.problem())) SearchAll(state, budgets.nodes);
  return state;
}

LayerState PlanFresh(const LayerProblem& problem, Budgets budgets) {
  LayerState state = Refined(PackFresh(problem), budgets);
  SpreadOverNodes(state, budgets.pairs);
  return state;
}

// The better of two refinements of `start` towards `target`: with the counts of copies that are
// there, and with new ones. The one that moves less if both reach it, else the faster.
LayerState RefinedFrom(const LayerState& current, const LayerState& start, double target,
                       int64_t changes) {
  LayerState kept = start, recounted = start;
  int64_t changes_kept = changes;
  Refine({&current, target}, kept, changes_kept);
  RecountCopies(recounted);
  Refine({&current, target}, recounted, changes);
  const auto cost = [&](const LayerState& state) {
    return std::pair(std::max(state.Makespan(), target), CopiesMoved(current, state));
  };
  return cost(kept) <= cost(recounted) ? kept : recounted;
}

// Moves as little as reaches what a fresh packing would: going further for less than
// move_gain_least is not worth it.
LayerState PlanFrom(const LayerState& current, const BalanceOptions& options, Budgets budgets) {
  const LayerProblem& problem = current.problem();
  const LayerState start = StartFrom(current);
  const double gain_least = std::max(options.move_gain_least, kGainLeast);
  if (start.Makespan() - problem.time_least < gain_least) return start;
  const LayerState packed = PackFresh(problem);
  Budgets part = budgets;
  part.changes /= 4;
  const LayerState fresh = Refined(packed, part);
  const double target =
      std::min(packed.Makespan() - kBelowPacked, fresh.Makespan() + options.move_gain_least);
  if (start.Makespan() - target < gain_least) return start;
  LayerState next = RefinedFrom(current, start, target, budgets.changes);
  // What is there can be a start that small steps lead nowhere from. Each eighth of the copies that
  // move on top must then pay.
  const LayerState renamed = Relabel(fresh, current);
  const double more = CopiesMoved(current, renamed) - CopiesMoved(current, next);
  const double parts = std::max(1.0, more * 8 / problem.slots_total);
  if (next.Makespan() - renamed.Makespan() >= gain_least * parts) return renamed;
  return start.Makespan() - next.Makespan() < gain_least ? start : next;
}

}  // namespace

void LoadProfile::Decay(double factor) {
  for (double& count : counts_) count *= factor;
}

absl::StatusOr<BalanceResult> BalanceExperts(const LoadProfile& load,
                                             const std::vector<BalanceRank>& ranks,
                                             const ExpertMap& current,
                                             const BalanceOptions& options) {
  RETURN_IF_ERROR(CheckRanks(ranks, load.experts()));
  RETURN_IF_ERROR(CheckLoad(load));
  RETURN_IF_ERROR(CheckOptions(options));
  RETURN_IF_ERROR(CheckCurrent(load, current));
  BalanceResult result;
  const int layers = load.layers();
  if (layers == 0) return result;
  LayerProblem problem = MakeProblem(ranks, load.experts(), options.copies_max);
  double rows = 0, crossing = 0;  // scaled down, so that any counts add up
  for (int layer = 0; layer < layers; ++layer) {
    std::vector<double> tokens(load.experts());
    double layer_rows = 0;
    for (int e = 0; e < load.experts(); ++e) {
      tokens[e] = load.at(layer, e);
      layer_rows += tokens[e] / load.experts() / layers;
    }
    SetTokens(tokens, problem);
    std::optional<LayerState> today;
    if (!current.layers.empty()) today = ReadMap(current.layers[layer], problem);
    const Budgets budgets(layers);
    const LayerState state =
        today ? PlanFrom(*today, options, budgets) : PlanFresh(problem, budgets);
    result.map.layers.push_back(state.ToMap());
    const double makespan = LayerMakespan(load, layer, result.map.layers.back(), ranks);
    result.makespan_mean += makespan / layers;
    result.makespan_max = std::max(result.makespan_max, makespan);
    if (today) result.moved_units += CopiesMoved(*today, state);
    rows += layer_rows;
    crossing += layer_rows * CrossNodeShare(state);
  }
  if (rows > 0) result.cross_node_share = crossing / rows;
  return result;
}

double LayerMakespan(const LoadProfile& load, int layer, const LayerExperts& map,
                     const std::vector<BalanceRank>& ranks) {
  CHECK_EQ(map.experts(), load.experts());
  double largest = 0;
  for (int e = 0; e < load.experts(); ++e) largest = std::max(largest, load.at(layer, e));
  if (largest <= 0) return 1;
  std::vector<double> loads(ranks.size());
  double total = 0, speed = 0, slowest = 0;
  for (int e = 0; e < load.experts(); ++e) {
    const double tokens = load.at(layer, e) / largest;
    total += tokens;
    for (int slice = 0; slice < map.slices(); ++slice) {
      const auto owners = map.Owners({e, slice});
      for (const int32_t rank : owners) {
        CHECK_LT(static_cast<size_t>(rank), ranks.size());
        loads[rank] += tokens / map.slices() / owners.size();
      }
    }
  }
  for (const BalanceRank& rank : ranks) speed += rank.speed;
  for (size_t i = 0; i < ranks.size(); ++i) {
    slowest = std::max(slowest, loads[i] / ranks[i].speed);
  }
  return slowest / (total / speed);
}

}  // namespace conclave
