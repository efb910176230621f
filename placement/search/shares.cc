#include "placement/search/shares.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <utility>

#include "placement/search/apportion.h"

namespace conclave {
namespace {

int MoeLayersIn(const ModelDims& model, const LayerRange& range) {
  int count = 0;
  for (int layer = range.begin; layer < range.end; ++layer) count += model.moe_layers[layer];
  return count;
}

}  // namespace

std::vector<ShareBuilder::Class> ShareBuilder::Classify(const std::vector<std::vector<int>>& keys) {
  std::map<std::vector<int>, size_t> index;
  std::vector<Class> classes;
  for (size_t member = 0; member < keys.size(); ++member) {
    const auto [at, added] = index.emplace(keys[member], classes.size());
    if (added) classes.emplace_back();
    classes[at->second].members.push_back(static_cast<int>(member));
  }
  return classes;
}

void ShareBuilder::Measure(int members_each, std::vector<Class>* classes) const {
  const ParallelSpec& spec = even_.spec;
  for (Class& one : *classes) {
    one.bandwidth = one.memory = std::numeric_limits<double>::infinity();
    const int first = one.members[0] * members_each;
    for (int stage = 0; stage < spec.pp; ++stage) {
      for (int r = first; r < first + members_each; ++r) {
        const int device = even_.devices[stage * spec.StageSize() + r];
        const HardwareProfile& profile = input_.cluster.ProfileOf(device);
        one.bandwidth =
            std::min(one.bandwidth, profile.memory_bandwidth * profile.stream_efficiency);
        one.memory = std::min(one.memory, profile.memory_bytes);
      }
    }
  }
}

ShareBuilder::ShareBuilder(const SearchInput& input, const Candidate& even,
                           const std::vector<int>& kinds)
    : input_(input), even_(even) {
  const ParallelSpec& spec = even.spec;
  std::vector<std::vector<int>> of_rank(spec.StageSize()), of_group(spec.dp);
  for (int r = 0; r < spec.StageSize(); ++r) {
    for (int stage = 0; stage < spec.pp; ++stage) {
      of_rank[r].push_back(kinds[even.devices[stage * spec.StageSize() + r]]);
    }
  }
  for (int d = 0; d < spec.dp; ++d) {
    of_group[d] = of_rank[d * spec.tp];
    for (int t = 1; t < spec.tp; ++t) {
      for (int stage = 0; stage < spec.pp; ++stage) {
        of_group[d][stage] = std::max(of_group[d][stage], of_rank[d * spec.tp + t][stage]);
      }
    }
  }
  token_classes_ = Classify(of_group);
  Measure(spec.tp, &token_classes_);
  if (!input.model.IsMoe()) return;
  expert_classes_ = Classify(of_rank);
  Measure(1, &expert_classes_);
}

Tilt ShareBuilder::Even() const {
  Tilt tilt;
  tilt.token_weights.assign(token_classes_.size(), 1);
  tilt.expert_weights.assign(expert_classes_.size(), 1);
  for (const LayerRange& stage : even_.stages) tilt.layers.push_back(stage.end - stage.begin);
  return tilt;
}

std::vector<double> ShareBuilder::LayerCaps() const {
  const ParallelSpec& spec = even_.spec;
  const std::vector<RankBytes> bytes = BytesOfCandidate(input_.model, even_, spec.dp);
  std::vector<double> caps(spec.pp, input_.model.layers);
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) {
    const int stage = rank / spec.StageSize();
    const double of_layer =
        bytes[rank].weights / (even_.stages[stage].end - even_.stages[stage].begin);
    const double memory = input_.cluster.ProfileOf(even_.devices[rank]).memory_bytes;
    caps[stage] = std::min(caps[stage], kPlannedMemoryShare * memory / of_layer);
  }
  return caps;
}

std::vector<int> ShareBuilder::LayersBy(bool memory) const {
  const ParallelSpec& spec = even_.spec;
  std::vector<StageTime> times(spec.pp);
  for (int stage = 0; stage < spec.pp; ++stage) {
    double power = 0;
    for (int r = 0; r < spec.StageSize(); ++r) {
      const HardwareProfile& profile =
          input_.cluster.ProfileOf(even_.devices[stage * spec.StageSize() + r]);
      power += memory ? profile.memory_bytes : profile.memory_bandwidth * profile.stream_efficiency;
    }
    times[stage].of_layer = 1 / power;
  }
  std::optional<std::vector<int>> layers = LevelLayers(times, LayerCaps(), input_.model.layers);
  return layers.has_value() ? *std::move(layers) : Even().layers;
}

Tilt ShareBuilder::LevelStages(const Tilt& tilt, const PricedPlan& priced) const {
  const ParallelSpec& spec = even_.spec;
  std::vector<StageTime> times(spec.pp);
  for (int stage = 0; stage < spec.pp; ++stage) {
    for (int r = 0; r < spec.StageSize(); ++r) {
      const RankCost& rank = priced.decode.ranks[stage * spec.StageSize() + r];
      const double head = rank.seconds[static_cast<int>(CostKind::kHead)];
      times[stage].fixed = std::max(times[stage].fixed, head);
      times[stage].of_layer =
          std::max(times[stage].of_layer, (rank.Seconds() - head) / tilt.layers[stage]);
    }
  }
  Tilt level = tilt;
  std::optional<std::vector<int>> layers = LevelLayers(times, LayerCaps(), input_.model.layers);
  if (layers.has_value()) level.layers = *std::move(layers);
  return level;
}

std::vector<Tilt> ShareBuilder::Starts() const {
  std::vector<Tilt> starts;
  for (const bool memory : {false, true}) {
    Tilt tilt = Even();
    const auto weigh = [memory](const std::vector<Class>& classes, std::vector<double>* weights) {
      for (size_t c = 0; c < classes.size(); ++c) {
        (*weights)[c] = memory ? classes[c].memory / classes[0].memory
                               : classes[c].bandwidth / classes[0].bandwidth;
      }
    };
    weigh(token_classes_, &tilt.token_weights);
    weigh(expert_classes_, &tilt.expert_weights);
    if (even_.spec.pp > 1) tilt.layers = LayersBy(memory);
    starts.push_back(std::move(tilt));
  }
  // Experts by speed with even tokens: attention weights are read in full by every group.
  Tilt even_tokens = starts[0];
  even_tokens.token_weights = Even().token_weights;
  starts.push_back(std::move(even_tokens));
  return starts;
}

std::vector<double> ShareBuilder::ExpertCaps(const Candidate& candidate) const {
  const ParallelSpec& spec = candidate.spec;
  const RequestMix& mix = input_.mix;
  const double sequences = std::max<double>(mix.concurrency, spec.dp);
  const double kv_tokens = sequences * (mix.prompt_tokens + mix.output_tokens);
  Candidate bare = candidate;
  bare.expert_shares.assign(spec.StageSize(), 0);
  const double step_tokens =
      std::max(sequences, spec.dp * std::min(mix.prompt_tokens, kChunkTokensMax));
  const std::vector<RankBytes> bytes = BytesOfCandidate(input_.model, bare, step_tokens);
  const double layer_experts = input_.model.experts * input_.model.ExpertWeights() *
                               NumberFormatBytes(input_.model.expert_format);
  std::vector<double> caps(spec.StageSize(), 1);
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) {
    const GridPosition at = spec.PositionOf(rank);
    const int moe = MoeLayersIn(input_.model, candidate.stages[at.pp]);
    if (moe == 0) continue;
    const double kv = bytes[rank].kv_per_token * kv_tokens * candidate.token_shares[at.dp];
    const double room =
        kPlannedMemoryShare * input_.cluster.ProfileOf(candidate.devices[rank]).memory_bytes -
        bytes[rank].weights - bytes[rank].activations - kv;
    double& cap = caps[spec.StageRankOf(at)];
    cap = std::min(cap, std::max(0.0, room) / (layer_experts * moe));
  }
  return caps;
}

std::optional<std::vector<double>> ShareBuilder::ExpertShares(
    const Candidate& candidate, const std::vector<double>& weights) const {
  const int units = input_.model.experts * candidate.spec.slices;
  std::vector<double> caps = ExpertCaps(candidate);
  std::vector<double> rank_weights(caps.size());
  for (size_t c = 0; c < expert_classes_.size(); ++c) {
    for (const int r : expert_classes_[c].members) rank_weights[r] = weights[c];
  }
  for (double& cap : caps) cap *= units;
  const std::optional<std::vector<int>> counts = ApportionWhole(rank_weights, caps, units, 0);
  if (!counts.has_value()) return std::nullopt;
  std::vector<double> shares;
  for (const int count : *counts) shares.push_back(static_cast<double>(count) / units);
  return shares;
}

std::optional<Candidate> ShareBuilder::Build(const Tilt& tilt) const {
  Candidate candidate = even_;
  int next = 0;
  for (size_t stage = 0; stage < tilt.layers.size(); ++stage) {
    candidate.stages[stage] = {next, next + tilt.layers[stage]};
    next += tilt.layers[stage];
  }
  if (!Mixed()) return candidate;
  double sum = 0;
  for (size_t c = 0; c < token_classes_.size(); ++c) {
    sum += tilt.token_weights[c] * token_classes_[c].members.size();
  }
  for (size_t c = 0; c < token_classes_.size(); ++c) {
    for (const int d : token_classes_[c].members) {
      candidate.token_shares[d] = tilt.token_weights[c] / sum;
    }
  }
  if (!input_.model.IsMoe()) return candidate;
  std::optional<std::vector<double>> shares = ExpertShares(candidate, tilt.expert_weights);
  if (!shares.has_value()) return std::nullopt;
  candidate.expert_shares = *std::move(shares);
  return candidate;
}

}  // namespace conclave
