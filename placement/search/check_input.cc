#include "placement/search/check_input.h"

#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

absl::Status CheckModel(const ModelDims& model) {
  const auto refuse = [&](absl::string_view field, int value, absl::string_view remedy) {
    return absl::InvalidArgumentError(
        absl::StrFormat("plan search: model '%s' has %s %d; %s", model.name, field, value, remedy));
  };
  struct Size {
    const char* field;
    int value;
    bool needed;
  };
  const bool dense_layers = model.MoeLayers() < model.layers;
  for (const Size& size :
       {Size{"layers", model.layers, true}, Size{"hidden", model.hidden, true},
        Size{"vocab", model.vocab, true}, Size{"heads", model.heads, true},
        Size{"head_dim", model.head_dim, true},
        Size{"kv_heads", model.kv_heads, model.kv_rank <= 0}, Size{"ffn", model.ffn, dense_layers},
        Size{"expert_ffn", model.expert_ffn, model.IsMoe()},
        Size{"top_k", model.top_k, model.IsMoe()}}) {
    if (size.needed && size.value <= 0) return refuse(size.field, size.value, "give 1 or more");
  }
  if (!model.IsMoe()) return absl::OkStatus();
  if (model.top_k > model.experts) {
    return refuse("top_k", model.top_k, absl::StrCat("it has only ", model.experts, " experts"));
  }
  if (static_cast<int>(model.moe_layers.size()) != model.layers) {
    return refuse("moe_layers of size", static_cast<int>(model.moe_layers.size()),
                  absl::StrCat("give one entry for each of its ", model.layers, " layers"));
  }
  return absl::OkStatus();
}

absl::Status CheckCluster(const ClusterTopology& cluster) {
  int64_t devices = 0;
  for (const ClusterNode& node : cluster.nodes) {
    if (node.devices < 0 || node.profile < 0 ||
        node.profile >= static_cast<int>(cluster.profiles.size())) {
      return absl::InvalidArgumentError(
          absl::StrFormat("plan search: node '%s' has %d devices of profile %d; give 0 or more "
                          "devices and a "
                          "profile below %d",
                          node.name, node.devices, node.profile, cluster.profiles.size()));
    }
    devices += node.devices;
    const HardwareProfile& profile = cluster.profiles[node.profile];
    // Of the links, those that its devices use.
    const bool fast = node.fast_domain >= 0;
    const double inside = fast ? node.fast.bandwidth : node.devices > 1 ? node.host.bandwidth : 1;
    const double outside = cluster.nodes.size() > 1 ? node.network.bandwidth : 1;
    for (const double figure :
         {profile.memory_bytes, profile.memory_bandwidth, profile.stream_efficiency,
          profile.gemm_efficiency, profile.attention_efficiency, inside, outside}) {
      if (figure > 0) continue;
      return absl::InvalidArgumentError(absl::StrFormat(
          "plan search: node '%s' of profile '%s' has a memory, bandwidth, efficiency or %s link "
          "of %g; give a number above 0",
          node.name, profile.name, fast ? "fast" : "node", figure));
    }
  }
  if (devices >= 1 && devices <= kDevicesMax) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("plan search: cluster '%s' has %d devices; give 1 to %d", cluster.name,
                      devices, kDevicesMax));
}

absl::Status CheckNumber(absl::string_view field, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(absl::StrFormat(
      "plan search: %s is %g; give a number from %g to %g", field, value, least, most));
}

absl::Status Contradiction(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrFormat("candidate: %s %s; build it with EvenCandidate and "
                      "change shares that sum to 1",
                      field, what));
}

absl::Status CheckShares(absl::string_view field, const std::vector<double>& shares, int size) {
  if (static_cast<int>(shares.size()) != size) {
    return Contradiction(
        field, absl::StrFormat("has %d entries but the grid needs %d", shares.size(), size));
  }
  double sum = 0;
  for (const double share : shares) {
    if (!(share >= 0 && share <= 1)) {
      return Contradiction(field, absl::StrFormat("holds %g, which is no share", share));
    }
    sum += share;
  }
  if (size > 0 && sum < 1 - 1e-6) {
    return Contradiction(field, absl::StrFormat("sums to %g, which leaves work undone", sum));
  }
  return absl::OkStatus();
}

absl::Status CheckStages(const SearchInput& input, const Candidate& candidate) {
  if (static_cast<int>(candidate.stages.size()) != candidate.spec.pp) {
    return Contradiction("stages", absl::StrFormat("has %d entries but pp=%d",
                                                   candidate.stages.size(), candidate.spec.pp));
  }
  int next = 0;
  for (const LayerRange& stage : candidate.stages) {
    if (stage.begin != next || stage.end <= stage.begin) {
      return Contradiction("stages", absl::StrFormat("has layers [%d, %d) where %d is next",
                                                     stage.begin, stage.end, next));
    }
    next = stage.end;
  }
  if (next == input.model.layers) return absl::OkStatus();
  return Contradiction(
      "stages", absl::StrFormat("ends at layer %d but the model has %d", next, input.model.layers));
}

}  // namespace

absl::Status CheckSearchInput(const SearchInput& input) {
  const RequestMix& mix = input.mix;
  RETURN_IF_ERROR(CheckModel(input.model));
  RETURN_IF_ERROR(CheckCluster(input.cluster));
  RETURN_IF_ERROR(CheckNumber("mix.concurrency", mix.concurrency, 0, kConcurrencyMax));
  RETURN_IF_ERROR(CheckNumber("mix.prompt_tokens", mix.prompt_tokens, 1, 1e8));
  RETURN_IF_ERROR(CheckNumber("mix.output_tokens", mix.output_tokens, 1, 1e8));
  RETURN_IF_ERROR(CheckNumber("ttft_seconds", input.ttft_seconds, 0, 1e6));
  RETURN_IF_ERROR(CheckNumber("tpot_seconds", input.tpot_seconds, 0, 1e6));
  if (input.model.context_tokens > 0 &&
      mix.prompt_tokens + mix.output_tokens > input.model.context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "plan search: prompt of %g and output of %g tokens "
        "exceed the context of %d that %s has; "
        "lower either",
        mix.prompt_tokens, mix.output_tokens, input.model.context_tokens, input.model.name));
  }
  if (input.objective == Objective::kCost) {
    for (const ClusterNode& node : input.cluster.nodes) {
      if (node.cost_per_hour > 0) continue;
      return absl::InvalidArgumentError(
          absl::StrFormat("plan search: node '%s' has cost_per_hour %g, so "
                          "cost cannot be compared; give every "
                          "node a price, or search for throughput",
                          node.name, node.cost_per_hour));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSearchSpec(const SearchInput& input, const ParallelSpec& spec) {
  for (const int degree : {spec.tp, spec.dp, spec.pp, spec.slices}) {
    if (degree >= 1 && degree <= kDevicesMax) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "plan search: %s has a degree of %d; give 1 to %d", spec.ToString(), degree, kDevicesMax));
  }
  if (static_cast<double>(spec.tp) * spec.dp * spec.pp > kDevicesMax) {
    return absl::InvalidArgumentError(
        absl::StrFormat("plan search: tp=%d,dp=%d,pp=%d asks for more than %d "
                        "devices; use smaller "
                        "degrees",
                        spec.tp, spec.dp, spec.pp, kDevicesMax));
  }
  RETURN_IF_ERROR(CheckGrid(input.model, spec));
  if (!input.model.IsMoe()) return absl::OkStatus();  // ep does not apply
  const int ep = spec.StageSize() / spec.slices;
  if (spec.ep == 0 || spec.ep == ep) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("plan search: ep=%d contradicts %s, whose experts are "
                      "spread over %d groups; leave ep out",
                      spec.ep, spec.ToString(), ep));
}

absl::Status CheckCandidate(const SearchInput& input, const Candidate& candidate) {
  const ParallelSpec& spec = candidate.spec;
  RETURN_IF_ERROR(CheckSearchSpec(input, spec));
  if (static_cast<int>(candidate.devices.size()) != spec.WorkerCount()) {
    return Contradiction("devices", absl::StrFormat("has %d entries but the grid needs %d",
                                                    candidate.devices.size(), spec.WorkerCount()));
  }
  const std::set<int> distinct(candidate.devices.begin(), candidate.devices.end());
  if (distinct.size() != candidate.devices.size()) {
    return Contradiction("devices", "names a device twice");
  }
  if (*distinct.begin() < 0 || *distinct.rbegin() >= input.cluster.DeviceCount()) {
    return Contradiction(
        "devices", absl::StrFormat("goes from %d to %d but the cluster has %d", *distinct.begin(),
                                   *distinct.rbegin(), input.cluster.DeviceCount()));
  }
  RETURN_IF_ERROR(CheckStages(input, candidate));
  RETURN_IF_ERROR(CheckShares("token_shares", candidate.token_shares, spec.dp));
  return CheckShares("expert_shares", candidate.expert_shares,
                     input.model.IsMoe() ? spec.StageSize() : 0);
}

}  // namespace conclave
