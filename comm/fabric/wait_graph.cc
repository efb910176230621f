#include "comm/fabric/wait_graph.h"

#include <algorithm>
#include <set>
#include <utility>

namespace conclave {

void WaitGraph::SetAwaited(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  awaited_ = std::move(ranks);
}

void WaitGraph::Heard(int rank, std::vector<int> waits_for) {
  if (rank != self_) waits_[rank] = std::move(waits_for);
}

std::vector<int> WaitGraph::WaitsOf(int rank) const {
  const auto waits = waits_.find(rank);
  return waits == waits_.end() ? std::vector<int>() : waits->second;
}

std::vector<int> WaitGraph::Suspects() const {
  std::set<int> seen = {self_}, suspects;
  std::vector<int> next = awaited_;
  while (!next.empty()) {
    const int rank = next.back();
    next.pop_back();
    if (!seen.insert(rank).second) continue;
    const auto waits = waits_.find(rank);
    if (waits == waits_.end()) {
      suspects.insert(rank);
    } else {
      next.insert(next.end(), waits->second.begin(), waits->second.end());
    }
  }
  if (suspects.empty()) return awaited_;
  return {suspects.begin(), suspects.end()};
}

}  // namespace conclave
