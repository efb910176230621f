#include "placement/cost/cost_model.h"

#include <algorithm>

#include "glog/logging.h"
#include "placement/cost/layer_cost.h"

namespace conclave {
namespace {

// One kind of rank and what it costs: ranks alike are priced once.
struct SiteCost {
  RankSite site;
  LayerCost moe;
  RankCost dense;
};

struct StageWork {
  std::vector<SiteCost> kinds;
  std::vector<int> kind_of_rank;  // [stage size]
};

RankSite SiteOf(const ClusterTopology& cluster, const Candidate& candidate, const StepLoad& load,
                int rank, const PeerCounts& peers) {
  const GridPosition at = candidate.spec.PositionOf(rank);
  const int device = candidate.devices[rank];
  const ClusterNode& node = cluster.nodes[cluster.NodeOf(device)];
  RankSite site;
  site.profile = &cluster.ProfileOf(device);
  const double share = candidate.token_shares[at.dp];
  site.tokens = load.tokens * share;
  site.sequences = load.sequences * share;
  site.logit_rows = load.logit_rows * share;
  if (!candidate.expert_shares.empty()) {
    site.expert_share = candidate.expert_shares[candidate.spec.StageRankOf(at)];
  }
  site.peers = peers;
  const int first = rank - at.tp;
  std::vector<int> group(candidate.devices.begin() + first,
                         candidate.devices.begin() + first + candidate.spec.tp);
  if (candidate.spec.tp > 1) site.tp_link = SlowestLink(cluster, group);
  if (node.fast_domain >= 0) site.links[0] = node.fast;
  site.links[1] = node.host;
  site.links[2] = node.network;
  if (site.profile->cores > 0 && node.devices > site.profile->cores) {
    site.links[1].alpha += site.profile->crowded_seconds;
    if (site.tp_link.link == LinkClass::kNode) {
      site.tp_link.cost.alpha += site.profile->crowded_seconds;
    }
  }
  return site;
}

StageWork PriceStage(const LayerInput& input, const ClusterTopology& cluster,
                     const Candidate& candidate, int stage) {
  StageWork work;
  const int size = candidate.spec.StageSize();
  std::vector<PeerCounts> peers(size);
  if (input.model->IsMoe()) peers = CountPeers(cluster, candidate, stage);
  for (int r = 0; r < size; ++r) {
    const RankSite site = SiteOf(cluster, candidate, *input.load, stage * size + r, peers[r]);
    const auto same = [&](const SiteCost& kind) { return kind.site == site; };
    auto found = std::find_if(work.kinds.begin(), work.kinds.end(), same);
    if (found == work.kinds.end()) {
      SiteCost kind{site, {}, {}};
      if (input.model->IsMoe()) kind.moe = CostOfMoeLayer(input, site);
      kind.dense = CostOfDenseLayer(input, site);
      work.kinds.push_back(std::move(kind));
      found = work.kinds.end() - 1;
    }
    work.kind_of_rank.push_back(static_cast<int>(found - work.kinds.begin()));
  }
  return work;
}

// The kind whose `part` takes longest.
template <typename Part>
const RankCost& Slowest(const std::vector<SiteCost>& kinds, const Part& part) {
  const RankCost* slowest = &part(kinds[0]);
  for (const SiteCost& kind : kinds) {
    if (part(kind).Seconds() > slowest->Seconds()) slowest = &part(kind);
  }
  return *slowest;
}

struct StageLayers {
  int moe = 0;
  int dense = 0;
};

StageLayers LayersOf(const ModelDims& model, const LayerRange& range) {
  StageLayers layers;
  for (int layer = range.begin; layer < range.end; ++layer) {
    const bool moe = layer < static_cast<int>(model.moe_layers.size()) && model.moe_layers[layer];
    ++(moe ? layers.moe : layers.dense);
  }
  return layers;
}

// The stage's critical path: its ranks meet before and after every exchange; dp groups of a dense
// model never do.
RankCost CriticalPath(const StageWork& work, const StageLayers& layers) {
  RankCost path;
  if (layers.moe > 0) {
    AddCost(Slowest(work.kinds, [](const SiteCost& k) -> const RankCost& { return k.moe.before; }),
            layers.moe, &path);
    AddCost(
        Slowest(work.kinds, [](const SiteCost& k) -> const RankCost& { return k.moe.exchange; }),
        layers.moe, &path);
    AddCost(Slowest(work.kinds, [](const SiteCost& k) -> const RankCost& { return k.moe.after; }),
            layers.moe, &path);
  }
  AddCost(Slowest(work.kinds, [](const SiteCost& k) -> const RankCost& { return k.dense; }),
          layers.dense, &path);
  return path;
}

RankCost CostOfHandOver(const LayerInput& input, const ClusterTopology& cluster,
                        const Candidate& candidate, int stage) {
  RankCost cost;
  const int size = candidate.spec.StageSize();
  double slowest = 0;
  for (int r = 0; r < size; ++r) {
    const int from = candidate.devices[stage * size + r];
    const int to = candidate.devices[(stage + 1) * size + r];
    const int dp = r / candidate.spec.tp;
    const double bytes = input.load->tokens * candidate.token_shares[dp] * input.model->hidden *
                         NumberFormatBytes(input.model->activation);
    const LinkCost link = cluster.CostBetween(from, to);
    const double seconds = link.alpha + bytes / link.bandwidth;
    if (seconds <= slowest) continue;
    slowest = seconds;
    cost = RankCost{};
    cost.seconds[static_cast<int>(CostKind::kPipeline)] = seconds;
    const int kind = static_cast<int>(cluster.LinkBetween(from, to));
    cost.link_bytes[kind] = bytes;
    cost.link_messages[kind] = 1;
  }
  return cost;
}

void FindBinding(const ModelDims& model, const ClusterTopology& cluster, const Candidate& candidate,
                 const RankCost& path, StepCost* step) {
  const double* seconds = step->seconds_by_kind;
  const int largest = static_cast<int>(std::max_element(seconds, seconds + kCostKinds) - seconds);
  step->binding = static_cast<CostKind>(largest);
  switch (step->binding) {
    case CostKind::kOverhead:
      step->bound = Bound::kLatency;
      break;
    case CostKind::kExchange:
    case CostKind::kTensorParallel:
    case CostKind::kPipeline:
      step->bound = Bound::kLink;
      break;
    default: {
      const HardwareProfile& profile = cluster.ProfileOf(candidate.devices[0]);
      const double move = path.bytes / profile.memory_bandwidth;
      const auto rate = profile.flops.find(model.activation);
      const double flops = rate == profile.flops.end() ? 0 : path.flops / rate->second;
      step->bound = flops > move ? Bound::kCompute : Bound::kBandwidth;
    }
  }
}

void MeasureBandwidth(const ModelDims& model, const ClusterTopology& cluster,
                      const Candidate& candidate, StepCost* step) {
  const int moe = model.MoeLayers();
  const double experts =
      moe * model.experts * model.ExpertWeights() * NumberFormatBytes(model.expert_format);
  const double dense =
      (model.layers * model.AttentionWeights() + (model.layers - moe) * model.DenseFfnWeights()) *
          NumberFormatBytes(model.format) +
      moe * model.SharedWeights() * NumberFormatBytes(model.expert_format);
  double peak = 0;
  for (const int device : candidate.devices) peak += cluster.ProfileOf(device).memory_bandwidth;
  step->effective_bandwidth = (experts + candidate.spec.dp * dense) / step->seconds;
  step->bandwidth_share = step->effective_bandwidth / peak;
}

void CheckCandidate(const ModelDims& model, const ClusterTopology& cluster,
                    const Candidate& candidate) {
  const ParallelSpec& spec = candidate.spec;
  CHECK_EQ(static_cast<int>(candidate.devices.size()), spec.WorkerCount());
  CHECK_EQ(static_cast<int>(candidate.stages.size()), spec.pp);
  CHECK_EQ(static_cast<int>(candidate.token_shares.size()), spec.dp);
  if (model.IsMoe()) {
    CHECK_EQ(static_cast<int>(candidate.expert_shares.size()), spec.StageSize());
  }
  for (const int device : candidate.devices) CHECK_LT(device, cluster.DeviceCount());
}

// What is priced, and where.
struct StepInput {
  const LayerInput& layers;
  const ClusterTopology& cluster;
  const Candidate& candidate;
};

// Adds stage `stage` to `step` and to its critical path, and returns the stage's time.
double AddStage(const StepInput& in, int stage, RankCost* path, StepCost* step) {
  const LayerInput& input = in.layers;
  const ClusterTopology& cluster = in.cluster;
  const Candidate& candidate = in.candidate;
  const ParallelSpec& spec = candidate.spec;
  const StageWork work = PriceStage(input, cluster, candidate, stage);
  const StageLayers layers = LayersOf(*input.model, candidate.stages[stage]);
  RankCost stage_path = CriticalPath(work, layers);
  const bool last = stage == spec.pp - 1;
  RankCost slowest_head;
  for (int r = 0; r < spec.StageSize(); ++r) {
    const SiteCost& kind = work.kinds[work.kind_of_rank[r]];
    RankCost rank;
    AddCost(kind.moe.before, layers.moe, &rank);
    AddCost(kind.moe.exchange, layers.moe, &rank);
    AddCost(kind.moe.after, layers.moe, &rank);
    AddCost(kind.dense, layers.dense, &rank);
    if (last) {
      const RankCost head = CostOfHead(input, kind.site);
      AddCost(head, 1, &rank);
      if (head.Seconds() > slowest_head.Seconds()) slowest_head = head;
    }
    step->ranks[stage * spec.StageSize() + r] = rank;
  }
  AddCost(slowest_head, 1, &stage_path);
  const double seconds = stage_path.Seconds();
  AddCost(stage_path, 1, path);
  if (!last) AddCost(CostOfHandOver(input, cluster, candidate, stage), 1, path);
  return seconds;
}

}  // namespace

StepLoad DecodeLoad(double sequences, double context_tokens) {
  return {.sequences = sequences,
          .tokens = sequences,
          .context_tokens = context_tokens,
          .logit_rows = sequences};
}

StepLoad PrefillLoad(double prompts, double prompt_tokens) {
  // A token sees half of its prompt on average.
  return {.sequences = prompts,
          .tokens = prompts * prompt_tokens,
          .context_tokens = prompt_tokens / 2,
          .logit_rows = prompts};
}

absl::string_view CostKindName(CostKind kind) {
  static constexpr absl::string_view kNames[kCostKinds] = {
      "attention weights", "attention kv",   "dense ffn",      "router",
      "experts",           "shared experts", "lm head",        "exchange",
      "tensor parallel",   "pipeline",       "launch and tail"};
  return kNames[static_cast<int>(kind)];
}

absl::string_view BoundName(Bound bound) {
  switch (bound) {
    case Bound::kBandwidth:
      return "memory bandwidth";
    case Bound::kCompute:
      return "compute";
    case Bound::kLatency:
      return "launch latency";
    case Bound::kLink:
      return "links";
  }
  return "?";
}

double RankCost::Seconds() const {
  double sum = 0;
  for (const double part : seconds) sum += part;
  return sum;
}

StepCost CostOfStep(const ModelDims& model, const ClusterTopology& cluster,
                    const Candidate& candidate, const StepLoad& load) {
  CheckCandidate(model, cluster, candidate);
  const LayerInput input{&model, &candidate.spec, candidate.schedule, &load};
  StepCost step;
  step.ranks.resize(candidate.spec.WorkerCount());
  RankCost path;
  for (int stage = 0; stage < candidate.spec.pp; ++stage) {
    step.interval_seconds =
        std::max(step.interval_seconds, AddStage({input, cluster, candidate}, stage, &path, &step));
  }
  const double fixed = cluster.ProfileOf(candidate.devices[0]).step_seconds;
  path.seconds[static_cast<int>(CostKind::kOverhead)] += fixed;
  step.interval_seconds += fixed;
  std::copy(path.seconds, path.seconds + kCostKinds, step.seconds_by_kind);
  step.seconds = path.Seconds();
  const auto slower = [](const RankCost& a, const RankCost& b) {
    return a.Seconds() < b.Seconds();
  };
  step.slowest_rank = static_cast<int>(
      std::max_element(step.ranks.begin(), step.ranks.end(), slower) - step.ranks.begin());
  FindBinding(model, cluster, candidate, path, &step);
  MeasureBandwidth(model, cluster, candidate, &step);
  return step;
}

}  // namespace conclave
