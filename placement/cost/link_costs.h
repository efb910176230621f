// Seconds of collectives and exchanges from link costs: latency and bandwidth of the slowest link
// a group uses, and the number of its peers. Pure functions; any thread. Sources: Thakur,
// Rabenseifner and Gropp 2005 (ring and tree all-reduce); arXiv 2207.00032, section V-B (all to
// all: p C1 + C2).
#pragma once

#include <vector>

#include "placement/cost/candidate.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {

// The slowest link between a group's first member and the others.
struct GroupLink {
  LinkCost cost;
  LinkClass link = LinkClass::kFast;
  bool operator==(const GroupLink&) const = default;
};
GroupLink SlowestLink(const ClusterTopology& cluster, const std::vector<int>& devices);

// All-reduce of `bytes` over `ranks` ranks: the better of a ring and a tree.
double AllReduceSeconds(int ranks, double bytes, const LinkCost& link);

// Peers of one stage rank by link class, for one schedule's all-to-all.
struct PeerCounts {
  int by_class[3] = {};
  int nodes = 1;          // of the stage's ranks
  int ranks_in_node = 1;  // of the stage on this rank's node, itself included
  int Total() const { return by_class[0] + by_class[1] + by_class[2]; }
  bool operator==(const PeerCounts&) const = default;
};
// [stage size]. Naive and two-level: all ranks of the stage; PCC: those of the same tp index.
std::vector<PeerCounts> CountPeers(const ClusterTopology& cluster, const Candidate& candidate,
                                   int stage);

}  // namespace conclave
