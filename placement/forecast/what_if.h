// What-if: changed clusters and re-planned experts for a forecast: a node lost, nodes added,
// redundant copies of hot experts. Values in, values out. Pure; deterministic; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/types/expert_map.h"
#include "placement/balance/expert_balance.h"
#include "placement/cost/cost_model.h"

namespace conclave {

// `cluster` less node `node`; the devices after it move up, so that candidates must be made anew.
// InvalidArgument: no such node, or the only one.
absl::StatusOr<ClusterTopology> WithoutNode(const ClusterTopology& cluster, int node);

// `cluster` and `count` more nodes like `node` at the end, named after it. Copies of a node with
// fast links form fast domains of their own, of as many nodes as the original's. InvalidArgument:
// no such node, or a count outside 1 to 65,536.
absl::StatusOr<ClusterTopology> WithNodes(const ClusterTopology& cluster, int node, int count);

struct ReplanInput {
  const ModelDims& model;
  const ClusterTopology& cluster;
  const Candidate& candidate;
  const LoadProfile& experts;  // [MoE layers] of the model
  // Slots of each rank in each layer above those that candidate.expert_shares give it.
  int redundant_slots = 0;
  // Owners today, [MoE layers] by stage rank; empty: none, all moves are free.
  const std::vector<LayerExperts>& current;
};

struct ReplanResult {
  std::vector<LayerExperts> maps;  // [MoE layers], as SimulateInput takes them
  double makespan_mean = 1;        // over layers: busiest rank's time / ideal time
  double makespan_max = 1;
  int64_t moved_units = 0;      // slices of experts that a rank did not hold
  double cross_node_share = 0;  // of rows, mean over layers
};

// BalanceExperts for every stage, with its own nodes and speeds (a device's stream bandwidth). A
// sliced expert is balanced as its group of ranks. InvalidArgument: candidate, load profile or
// `current` do not fit the model; a negative number of slots.
absl::StatusOr<ReplanResult> ReplanExperts(const ReplanInput& input);

}  // namespace conclave
