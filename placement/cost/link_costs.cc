#include "placement/cost/link_costs.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <utility>

namespace conclave {

GroupLink SlowestLink(const ClusterTopology& cluster, const std::vector<int>& devices) {
  GroupLink slowest;
  for (size_t i = 1; i < devices.size(); ++i) {
    const LinkCost cost = cluster.CostBetween(devices[0], devices[i]);
    const LinkClass link = cluster.LinkBetween(devices[0], devices[i]);
    if (i == 1) {
      slowest = {cost, link};
      continue;
    }
    slowest.link = std::max(slowest.link, link);
    slowest.cost.alpha = std::max(slowest.cost.alpha, cost.alpha);
    slowest.cost.bandwidth = std::min(slowest.cost.bandwidth, cost.bandwidth);
  }
  return slowest;
}

double AllReduceSeconds(int ranks, double bytes, const LinkCost& link) {
  if (ranks <= 1) return 0;
  const double steps = 2.0 * (ranks - 1);
  const double ring = steps * link.alpha + steps / ranks * bytes / link.bandwidth;
  const double levels = 2 * std::ceil(std::log2(ranks));
  const double tree = levels * (link.alpha + bytes / link.bandwidth);
  return std::min(ring, tree);
}

std::vector<PeerCounts> CountPeers(const ClusterTopology& cluster, const Candidate& candidate,
                                   int stage) {
  const ParallelSpec& spec = candidate.spec;
  const int size = spec.StageSize();
  const bool by_tp = candidate.schedule == ScheduleKind::kPcc;
  const auto group_of = [&](int stage_rank) { return by_tp ? stage_rank % spec.tp : 0; };
  std::map<std::pair<int, int>, int> in_node, in_domain;  // (node or domain, group) -> ranks
  std::map<int, int> in_group, ranks_of_node;
  for (int r = 0; r < size; ++r) {
    const int node = cluster.NodeOf(candidate.devices[stage * size + r]);
    const int domain = cluster.nodes[node].fast_domain;
    ++in_node[{node, group_of(r)}];
    if (domain >= 0) ++in_domain[{domain, group_of(r)}];
    ++in_group[group_of(r)];
    ++ranks_of_node[node];
  }
  std::vector<PeerCounts> counts(size);
  for (int r = 0; r < size; ++r) {
    const int node = cluster.NodeOf(candidate.devices[stage * size + r]);
    const int domain = cluster.nodes[node].fast_domain;
    PeerCounts& peers = counts[r];
    if (domain >= 0) {
      peers.by_class[0] = in_domain[{domain, group_of(r)}] - 1;
    } else {
      peers.by_class[1] = in_node[{node, group_of(r)}] - 1;
    }
    peers.by_class[2] = in_group[group_of(r)] - 1 - peers.by_class[0] - peers.by_class[1];
    peers.nodes = static_cast<int>(ranks_of_node.size());
    peers.ranks_in_node = ranks_of_node[node];
  }
  return counts;
}

}  // namespace conclave
