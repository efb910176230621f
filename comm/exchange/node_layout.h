// NodeLayout: where the ranks of a stage are, and who leads: a rank speaks with another node
// through the rank there that has its own position, modulo their number. Schedules of the two-level
// exchange, and the lists of transfers that planners price, share it. A value; any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"

namespace conclave {

// [stage size] The node of each rank of a stage; any numbers, equal on one node.
using RankNodes = std::vector<int>;

// Numbers nodes that are known by name: equal names, equal numbers, in the order of their first
// ranks.
RankNodes NumberNodes(absl::Span<const std::string> names);

class NodeLayout {
 public:
  explicit NodeLayout(const RankNodes& nodes);

  int ranks() const { return static_cast<int>(node_of_.size()); }
  // Nodes count from 0, in the order of their numbers.
  int nodes() const { return static_cast<int>(ranks_of_.size()); }
  int NodeOf(int rank) const { return node_of_[rank]; }
  // Among the ranks of its node.
  int PositionOf(int rank) const { return position_of_[rank]; }
  const std::vector<int32_t>& RanksOf(int node) const { return ranks_of_[node]; }  // ascending

  // The rank of `node` that stands at `position` modulo their number.
  int RankAt(int node, int position) const {
    const std::vector<int32_t>& ranks = ranks_of_[node];
    return ranks[position % static_cast<int>(ranks.size())];
  }
  // The rank of `node` that takes the rows that `from`, of another node, sends there.
  int LeaderOf(int from, int node) const { return RankAt(node, position_of_[from]); }
  // True when some rank of another node has `rank` for its leader.
  bool Leads(int rank) const;

 private:
  std::vector<int32_t> node_of_;
  std::vector<int32_t> position_of_;
  std::vector<std::vector<int32_t>> ranks_of_;
};

}  // namespace conclave
