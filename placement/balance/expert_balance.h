// Expert placement from a load profile: who owns which expert, and which experts get extra copies,
// so that the slowest rank of every layer is as fast as can be, few rows cross nodes, and few
// experts move from the current map. Pure; deterministic; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/types/expert_map.h"

namespace conclave {

// Tokens routed to each expert of each layer, decayed over time.
class LoadProfile {
 public:
  LoadProfile() = default;
  LoadProfile(int layers, int experts)
      : experts_(experts), counts_(static_cast<size_t>(layers) * experts) {}
  int layers() const { return experts_ == 0 ? 0 : static_cast<int>(counts_.size()) / experts_; }
  int experts() const { return experts_; }
  double at(int layer, int expert) const { return counts_[Index(layer, expert)]; }
  void Add(int layer, int expert, double tokens) { counts_[Index(layer, expert)] += tokens; }
  // Multiplies every count, e.g. by 2^(-elapsed / half_life).
  void Decay(double factor);
  bool operator==(const LoadProfile&) const = default;

 private:
  size_t Index(int layer, int expert) const {
    return static_cast<size_t>(layer) * experts_ + expert;
  }
  int experts_ = 0;
  std::vector<double> counts_;  // [layers * experts]
};

struct BalanceRank {
  int node = 0;
  int slots = 0;     // experts it can hold in each layer; ranks may differ
  double speed = 1;  // relative: its time is load / speed
  bool operator==(const BalanceRank&) const = default;
};

struct BalanceOptions {
  // Moving an expert is worth it only if it lowers the layer's makespan by at least this share of
  // the mean load.
  double move_gain_least = 0.01;
  // 0: one owner each; else at most this many copies of one expert.
  int copies_max = 0x7fffffff;
};

struct BalanceResult {
  ExpertMap map;             // slices as asked; layers without load in the profile are kept even
  double makespan_mean = 0;  // over layers: busiest rank's time / ideal time
  double makespan_max = 0;
  int64_t moved_units = 0;  // copies in `map` whose rank did not hold them in `current`
  double cross_node_share =
      0;  // of rows that need another node, for tokens spread evenly over ranks
};

// `ranks`: [stage size]. `current`: the map of today, or one without layers when there is none: all
// moves are then free. Every layer of the profile is a MoE layer; expert slices are 1 (a sliced
// expert is balanced as its group). A rank never holds two copies of one expert. InvalidArgument:
// fewer slots than experts; counts that are negative or not finite.
absl::StatusOr<BalanceResult> BalanceExperts(const LoadProfile& load,
                                             const std::vector<BalanceRank>& ranks,
                                             const ExpertMap& current,
                                             const BalanceOptions& options);

// Busiest rank's time over the ideal time of one layer when each expert's load is split evenly over
// its copies.
double LayerMakespan(const LoadProfile& load, int layer, const LayerExperts& map,
                     const std::vector<BalanceRank>& ranks);

}  // namespace conclave
