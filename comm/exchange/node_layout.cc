#include "comm/exchange/node_layout.h"

#include <map>

namespace conclave {

RankNodes NumberNodes(absl::Span<const std::string> names) {
  std::map<std::string, int> numbers;
  RankNodes nodes;
  for (const std::string& name : names) {
    nodes.push_back(numbers.emplace(name, static_cast<int>(numbers.size())).first->second);
  }
  return nodes;
}

NodeLayout::NodeLayout(const RankNodes& nodes) {
  std::map<int, int32_t> index;
  for (const int node : nodes) index.emplace(node, 0);
  int32_t next = 0;
  for (auto& [node, i] : index) i = next++;
  ranks_of_.resize(index.size());
  for (int rank = 0; rank < static_cast<int>(nodes.size()); ++rank) {
    const int32_t node = index[nodes[rank]];
    node_of_.push_back(node);
    position_of_.push_back(static_cast<int32_t>(ranks_of_[node].size()));
    ranks_of_[node].push_back(rank);
  }
}

bool NodeLayout::Leads(int rank) const {
  for (int node = 0; node < nodes(); ++node) {
    // Positions below the node's size have this one for their remainder.
    if (node != node_of_[rank] &&
        position_of_[rank] < static_cast<int32_t>(ranks_of_[node].size())) {
      return true;
    }
  }
  return false;
}

}  // namespace conclave
