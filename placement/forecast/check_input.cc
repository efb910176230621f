#include "placement/forecast/check_input.h"

#include <cmath>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr int kStepsMax = 1'000'000;
constexpr double kTokensMax = 1e9;
constexpr int64_t kRanksMax = 1 << 16;

template <typename... Words>
absl::Status Bad(const Words&... words) {
  return absl::InvalidArgumentError(absl::StrCat(words...));
}

absl::Status CheckModel(const ModelDims& model) {
  if (model.layers < 1 || static_cast<int>(model.moe_layers.size()) > model.layers) {
    return Bad("model.layers: ", model.layers, " with ", model.moe_layers.size(),
               " moe_layers; give one for each of at least one layer");
  }
  if (model.hidden < 1) return Bad("model.hidden: ", model.hidden, "; give a positive width");
  if (model.heads < 1 || (model.kv_rank <= 0 && model.kv_heads < 1)) {
    return Bad("model.heads: ", model.heads, ", kv_heads: ", model.kv_heads,
               "; give at least one of each");
  }
  if (model.IsMoe() && (model.top_k < 1 || model.top_k > model.experts)) {
    return Bad("model.top_k: ", model.top_k, " of ", model.experts,
               " experts; use 1 to the number of experts");
  }
  if (!model.IsMoe() && model.MoeLayers() > 0) {
    return Bad("model.experts: ", model.experts, " with ", model.MoeLayers(),
               " MoE layers; give their number of experts");
  }
  return absl::OkStatus();
}

absl::Status CheckCluster(const ClusterTopology& cluster) {
  for (const ClusterNode& node : cluster.nodes) {
    if (node.devices < 0) return Bad("node ", node.name, " devices: ", node.devices);
    if (node.profile < 0 || node.profile >= static_cast<int>(cluster.profiles.size())) {
      return Bad("node ", node.name, " profile: ", node.profile, " of ", cluster.profiles.size(),
                 "; name one of the cluster's profiles");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckShares(const std::vector<double>& shares, size_t size, const char* field) {
  if (shares.size() != size) {
    return Bad(field, ": ", shares.size(), " shares; give ", size, ", one for each");
  }
  double sum = 0;
  for (const double share : shares) {
    if (!std::isfinite(share) || share < 0) {
      return Bad(field, ": share ", share, "; use finite shares of at least 0");
    }
    sum += share;
  }
  if (!(sum > 0)) return Bad(field, ": shares sum to ", sum, "; make them sum to 1");
  return absl::OkStatus();
}

absl::Status CheckDevices(const ClusterTopology& cluster, const Candidate& candidate) {
  const int count = cluster.DeviceCount();
  std::set<int> used;
  for (const int device : candidate.devices) {
    if (device < 0 || device >= count) {
      return Bad("candidate.devices: ", device, "; the cluster has devices 0 to ", count - 1);
    }
    if (!used.insert(device).second) {
      return Bad("candidate.devices: ", device, " twice; a device has one rank");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckLinks(const ClusterTopology& cluster, const Candidate& candidate) {
  const int first = candidate.devices[0];
  for (const int device : candidate.devices) {
    const HardwareProfile& profile = cluster.ProfileOf(device);
    if (!(profile.memory_bandwidth > 0) || !(profile.stream_efficiency > 0) ||
        !(profile.gemm_efficiency > 0)) {
      return Bad("profile ", profile.name,
                 ": memory_bandwidth, stream_efficiency and gemm_efficiency must be positive");
    }
    // Of every node's ports: those to its own first device and to the candidate's.
    for (const int other : {first, candidate.devices.back(), device + 1, device - 1}) {
      if (other == device || other < 0 || other >= cluster.DeviceCount()) continue;
      const LinkCost link = cluster.CostBetween(device, other);
      if (!(link.bandwidth > 0) || !(link.alpha >= 0)) {
        return Bad("node ", cluster.nodes[cluster.NodeOf(device)].name, ", link ",
                   LinkClassName(cluster.LinkBetween(device, other)), ": bandwidth ",
                   link.bandwidth, ", alpha ", link.alpha,
                   "; give a positive bandwidth and an alpha of at least 0");
      }
    }
  }
  return absl::OkStatus();
}

absl::Status CheckStages(const ModelDims& model, const Candidate& candidate) {
  int next = 0;
  for (const LayerRange& range : candidate.stages) {
    if (range.begin != next || range.end < range.begin) {
      return Bad("candidate.stages: layers ", range.begin, " to ", range.end, " after ", next,
                 "; stages follow one another");
    }
    next = range.end;
  }
  if (next != model.layers) {
    return Bad("candidate.stages: ", next, " layers of a model with ", model.layers,
               "; the last stage ends with the model");
  }
  return absl::OkStatus();
}

absl::Status CheckLoad(const StepLoad& load) {
  for (const double value : {load.sequences, load.tokens, load.context_tokens, load.logit_rows}) {
    if (!std::isfinite(value) || value < 0 || value > kTokensMax) {
      return Bad("load: ", value, "; use 0 to ", kTokensMax);
    }
  }
  if (!(load.tokens > 0)) return Bad("load.tokens: ", load.tokens, "; a step has some");
  if (!std::isfinite(load.imbalance) || load.imbalance < 1) {
    return Bad("load.imbalance: ", load.imbalance, "; use at least 1");
  }
  return absl::OkStatus();
}

absl::Status CheckProfile(const LoadProfile& load, const ModelDims& model) {
  if (load.layers() == 0) return absl::OkStatus();
  if (load.layers() != model.MoeLayers() || load.experts() != model.experts) {
    return Bad("experts: a load profile of ", load.layers(), " layers x ", load.experts(),
               " experts; the model has ", model.MoeLayers(), " x ", model.experts);
  }
  for (int layer = 0; layer < load.layers(); ++layer) {
    for (int expert = 0; expert < load.experts(); ++expert) {
      const double count = load.at(layer, expert);
      if (std::isfinite(count) && count >= 0) continue;
      return Bad("experts: count ", count, " of layer ", layer, ", expert ", expert,
                 "; use finite counts of at least 0");
    }
  }
  return absl::OkStatus();
}

absl::Status CheckMaps(const SimulateInput& input) {
  if (input.maps.empty()) return absl::OkStatus();
  if (static_cast<int>(input.maps.size()) != input.model.MoeLayers()) {
    return Bad("maps: ", input.maps.size(), " layers; the model has ", input.model.MoeLayers(),
               " MoE layers");
  }
  const int size = input.candidate.spec.StageSize();
  for (size_t layer = 0; layer < input.maps.size(); ++layer) {
    const LayerExperts& map = input.maps[layer];
    const int slices = map.slices();
    const size_t units = map.first().size() - 1;
    if (slices != input.candidate.spec.slices ||
        units != static_cast<size_t>(input.model.experts) * slices) {
      return Bad("maps: layer ", layer, " has ", units, " units of ", slices, " slices; need ",
                 input.model.experts, " experts of ", input.candidate.spec.slices, " slices");
    }
    for (size_t unit = 0; unit < units; ++unit) {
      if (map.first()[unit] < map.first()[unit + 1]) continue;
      return Bad("maps: layer ", layer, ": unit ", unit, " has no owner; give it one");
    }
    for (const int32_t owner : map.ranks()) {
      if (owner >= 0 && owner < size) continue;
      return Bad("maps: layer ", layer, ": owner ", owner, "; the stage has ranks 0 to ", size - 1);
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckSimulateCandidate(const ModelDims& model, const ClusterTopology& cluster,
                                    const Candidate& candidate) {
  RETURN_IF_ERROR(CheckModel(model));
  RETURN_IF_ERROR(CheckCluster(cluster));
  const ParallelSpec& spec = candidate.spec;
  if (spec.tp < 1 || spec.dp < 1 || spec.pp < 1 || spec.slices < 1 ||
      static_cast<int64_t>(spec.tp) * spec.dp > kRanksMax ||
      static_cast<int64_t>(spec.tp) * spec.dp * spec.pp > kRanksMax) {
    return Bad("candidate.spec: ", spec.ToString(), "; use 1 to ", kRanksMax, " ranks");
  }
  if (model.IsMoe() && spec.StageSize() % spec.slices != 0) {
    return Bad("candidate.spec.slices: ", spec.slices,
               "; use a divisor of tp * dp = ", spec.StageSize());
  }
  RETURN_IF_ERROR(CheckGrid(model, spec));
  if (static_cast<int>(candidate.devices.size()) != spec.WorkerCount() ||
      static_cast<int>(candidate.stages.size()) != spec.pp) {
    return Bad("candidate: ", candidate.devices.size(), " devices, ", candidate.stages.size(),
               " stages; ", spec.ToString(), " needs ", spec.WorkerCount(), " and ", spec.pp);
  }
  RETURN_IF_ERROR(CheckDevices(cluster, candidate));
  RETURN_IF_ERROR(CheckLinks(cluster, candidate));
  RETURN_IF_ERROR(CheckStages(model, candidate));
  RETURN_IF_ERROR(CheckShares(candidate.token_shares, spec.dp, "candidate.token_shares"));
  if (!model.IsMoe()) return absl::OkStatus();
  return CheckShares(candidate.expert_shares, spec.StageSize(), "candidate.expert_shares");
}

absl::Status CheckSimulateInput(const SimulateInput& input) {
  RETURN_IF_ERROR(CheckSimulateCandidate(input.model, input.cluster, input.candidate));
  if (input.steps < 1 || input.steps > kStepsMax) {
    return Bad("steps: ", input.steps, "; use 1 to ", kStepsMax);
  }
  RETURN_IF_ERROR(CheckLoad(input.load));
  RETURN_IF_ERROR(CheckProfile(input.experts, input.model));
  return CheckMaps(input);
}

}  // namespace conclave
