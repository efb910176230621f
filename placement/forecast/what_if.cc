#include "placement/forecast/what_if.h"

#include <algorithm>
#include <set>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "placement/forecast/check_input.h"
#include "placement/forecast/spread_map.h"

namespace conclave {
namespace {

constexpr int kNodesMax = 65'536;

absl::Status CheckNode(const ClusterTopology& cluster, int node) {
  const int count = static_cast<int>(cluster.nodes.size());
  if (node >= 0 && node < count) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("node ", node, " of cluster ", cluster.name, ": use 0 to ", count - 1));
}

// Of one stage: MoE layers [begin, end) of the model's.
struct StageLayers {
  int stage = 0;
  int begin = 0;
  int end = 0;
};

std::vector<StageLayers> MoeLayersByStage(const ModelDims& model, const Candidate& candidate) {
  std::vector<StageLayers> stages;
  int next = 0;
  for (size_t s = 0; s < candidate.stages.size(); ++s) {
    StageLayers layers{static_cast<int>(s), next, next};
    for (int layer = candidate.stages[s].begin; layer < candidate.stages[s].end; ++layer) {
      const bool known = layer < static_cast<int>(model.moe_layers.size());
      if (known && model.moe_layers[layer]) ++layers.end;
    }
    next = layers.end;
    stages.push_back(layers);
  }
  return stages;
}

// One rank for each group that holds an expert together; as fast as its slowest member.
std::vector<BalanceRank> RanksOfStage(const ReplanInput& input, int stage) {
  const ParallelSpec& spec = input.candidate.spec;
  const std::vector<int> experts = ExpertsOfGroups(input.candidate, input.model.experts);
  std::vector<BalanceRank> ranks;
  double fastest = 0;
  for (size_t group = 0; group < experts.size(); ++group) {
    BalanceRank rank;
    for (int slice = 0; slice < spec.slices; ++slice) {
      const int member = stage * spec.StageSize() + static_cast<int>(group) * spec.slices + slice;
      const int device = input.candidate.devices[member];
      const HardwareProfile& profile = input.cluster.ProfileOf(device);
      const double speed = profile.memory_bandwidth * profile.stream_efficiency;
      rank.speed = slice == 0 ? speed : std::min(rank.speed, speed);
      if (slice == 0) rank.node = input.cluster.NodeOf(device);
    }
    // No group can use more slots than there are experts.
    const int64_t slots = int64_t{experts[group]} + input.redundant_slots;
    rank.slots = static_cast<int>(std::min<int64_t>(slots, input.model.experts));
    fastest = std::max(fastest, rank.speed);
    ranks.push_back(rank);
  }
  for (BalanceRank& rank : ranks) rank.speed /= fastest;
  return ranks;
}

LoadProfile LayersOf(const LoadProfile& load, const StageLayers& layers) {
  LoadProfile part(layers.end - layers.begin, load.experts());
  for (int layer = layers.begin; layer < layers.end; ++layer) {
    for (int expert = 0; expert < load.experts(); ++expert) {
      part.Add(layer - layers.begin, expert, load.at(layer, expert));
    }
  }
  return part;
}

// The owners of slice 0 stand for their groups.
ExpertMap GroupsOf(const std::vector<LayerExperts>& maps, const StageLayers& layers) {
  ExpertMap groups;
  for (int layer = layers.begin; layer < layers.end && !maps.empty(); ++layer) {
    const LayerExperts& map = maps[layer];
    std::vector<std::vector<int32_t>> owners;
    for (int expert = 0; expert < map.experts(); ++expert) {
      owners.emplace_back();
      for (const int32_t rank : map.Owners({expert, 0})) {
        owners.back().push_back(rank / map.slices());
      }
      owners.back().erase(std::unique(owners.back().begin(), owners.back().end()),
                          owners.back().end());
    }
    groups.layers.emplace_back(1, owners);
  }
  return groups;
}

LayerExperts RanksOf(const LayerExperts& groups, int slices) {
  std::vector<std::vector<int>> groups_of;
  for (int expert = 0; expert < groups.experts(); ++expert) {
    const auto owners = groups.Owners({expert, 0});
    groups_of.emplace_back(owners.begin(), owners.end());
  }
  return MapOfGroups(groups_of, slices);
}

absl::Status CheckReplan(const ReplanInput& input) {
  if (!input.model.IsMoe() || input.model.MoeLayers() == 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "model ", input.model.name, " has no experts to plan; use a mixture of experts"));
  }
  if (input.redundant_slots < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("redundant_slots: ", input.redundant_slots, "; use at least 0"));
  }
  if (input.experts.layers() == 0) {
    return absl::InvalidArgumentError(
        "experts: an empty load profile; record one, or make one by SyntheticLoad");
  }
  SimulateInput whole;
  whole.model = input.model;
  whole.cluster = input.cluster;
  whole.candidate = input.candidate;
  whole.experts = input.experts;
  whole.maps = input.current;
  return CheckSimulateInput(whole);
}

}  // namespace

absl::StatusOr<ClusterTopology> WithoutNode(const ClusterTopology& cluster, int node) {
  RETURN_IF_ERROR(CheckNode(cluster, node));
  if (cluster.nodes.size() == 1) {
    return absl::InvalidArgumentError(absl::StrCat("node ", node, " is the only one of cluster ",
                                                   cluster.name, "; nothing would be left"));
  }
  ClusterTopology left = cluster;
  left.nodes.erase(left.nodes.begin() + node);
  left.IndexDevices();
  return left;
}

absl::StatusOr<ClusterTopology> WithNodes(const ClusterTopology& cluster, int node, int count) {
  RETURN_IF_ERROR(CheckNode(cluster, node));
  if (count < 1 || count > kNodesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("count of added nodes: ", count, "; use 1 to ", kNodesMax));
  }
  ClusterTopology grown = cluster;
  std::set<std::string> names;
  int domain = -1;
  int domain_nodes = 0;
  const ClusterNode original = cluster.nodes[node];
  for (const ClusterNode& other : cluster.nodes) {
    names.insert(other.name);
    domain = std::max(domain, other.fast_domain);
    domain_nodes += other.fast_domain == original.fast_domain;
  }
  int number = 1;
  for (int i = 0; i < count; ++i) {
    ClusterNode copy = original;
    do {
      copy.name = absl::StrCat(original.name, "-copy-", number++);
    } while (!names.insert(copy.name).second);
    if (original.fast_domain >= 0) {
      if (i % domain_nodes == 0) ++domain;
      copy.fast_domain = domain;
    }
    grown.nodes.push_back(std::move(copy));
  }
  grown.IndexDevices();
  return grown;
}

absl::StatusOr<ReplanResult> ReplanExperts(const ReplanInput& input) {
  RETURN_IF_ERROR(CheckReplan(input));
  ReplanResult result;
  result.makespan_mean = 0;
  const double all = input.model.MoeLayers();
  const int slices = input.candidate.spec.slices;
  for (const StageLayers& layers : MoeLayersByStage(input.model, input.candidate)) {
    if (layers.begin == layers.end) continue;
    ASSIGN_OR_RETURN(
        const BalanceResult balanced,
        BalanceExperts(LayersOf(input.experts, layers), RanksOfStage(input, layers.stage),
                       GroupsOf(input.current, layers), BalanceOptions()));
    for (const LayerExperts& groups : balanced.map.layers) {
      result.maps.push_back(RanksOf(groups, slices));
    }
    const double share = (layers.end - layers.begin) / all;
    result.makespan_mean += share * balanced.makespan_mean;
    result.makespan_max = std::max(result.makespan_max, balanced.makespan_max);
    result.moved_units += balanced.moved_units * slices;
    result.cross_node_share += share * balanced.cross_node_share;
  }
  return result;
}

}  // namespace conclave
