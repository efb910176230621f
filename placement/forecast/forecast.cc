#include "placement/forecast/forecast.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "placement/forecast/check_input.h"
#include "placement/forecast/link_report.h"
#include "placement/forecast/spread_map.h"
#include "placement/forecast/stage_clock.h"
#include "placement/forecast/token_routing.h"

namespace conclave {
namespace {

// Choices drawn over all layers and steps, and in one layer of one step. Above, each drawn token
// stands for several, which keeps the means and overstates the noise; steps of so many tokens have
// next to none.
constexpr double kDrawsMax = 1.2e8;
constexpr double kLayerDrawsMax = 1 << 20;

// Of `whole` tokens a group, how many are drawn, and how many real ones each stands for.
struct Draws {
  std::vector<int64_t> tokens;  // [dp]
  double scale = 1;
};

Draws PlanDraws(const SimulateInput& input) {
  Draws draws;
  draws.tokens = SplitTokens(input.load.tokens, input.candidate.token_shares);
  double whole = 0;
  for (const int64_t tokens : draws.tokens) whole += static_cast<double>(tokens);
  const double layer = whole * input.model.top_k;
  const double all = layer * input.model.MoeLayers() * static_cast<double>(input.steps);
  const double over = std::max({1.0, layer / kLayerDrawsMax, all / kDrawsMax});
  const int64_t each = std::llround(std::ceil(over));
  double drawn = 0;
  for (int64_t& tokens : draws.tokens) {
    if (tokens > 0) tokens = std::max<int64_t>(1, tokens / each);
    drawn += static_cast<double>(tokens);
  }
  draws.scale = whole / drawn;
  return draws;
}

struct StepOutcome {
  double seconds = 0;
  double slowest_stage = 0;
};

// One replica: its stages, and what it draws from.
class Replica {
 public:
  Replica(const SimulateInput& input, const StepCost& cost)
      : input_(input),
        draws_(PlanDraws(input)),
        samplers_(SamplersOf(input.experts, std::max(1, input.model.experts))) {
    if (input.model.IsMoe()) even_ = SpreadMap(input.candidate, input.model.experts);
    routing_.top_k = std::max(1, input.model.top_k);
    routing_.experts_by_dp.resize(input.candidate.spec.dp);
    const StageInput shared{input.model, input.cluster, input.candidate, cost};
    int moe_layer = 0;
    for (int stage = 0; stage < input.candidate.spec.pp; ++stage) {
      std::vector<const LayerExperts*> maps;
      for (int layer = input.candidate.stages[stage].begin;
           layer < input.candidate.stages[stage].end; ++layer) {
        if (!IsMoeLayer(layer)) continue;
        maps.push_back(input.maps.empty() ? &even_ : &input.maps[moe_layer]);
        ++moe_layer;
      }
      stages_.emplace_back(shared, stage, maps);
    }
    for (const int device : input.candidate.devices) {
      fixed_seconds_ = std::max(fixed_seconds_, input.cluster.ProfileOf(device).step_seconds);
    }
  }
  Replica(const Replica&) = delete;
  Replica& operator=(const Replica&) = delete;

  // Adds each MoE layer's imbalance to `imbalances`.
  StepOutcome RunStep(int step, std::vector<double>& imbalances) {
    StepOutcome outcome;
    std::vector<double> clock(input_.candidate.spec.StageSize(), 0.0);
    int moe_layer = 0;
    for (size_t s = 0; s < stages_.size(); ++s) {
      const double start = *std::max_element(clock.begin(), clock.end());
      moe_layer = RunStage(step, s, moe_layer, Run{clock, imbalances});
      const double end = *std::max_element(clock.begin(), clock.end());
      outcome.slowest_stage = std::max(outcome.slowest_stage, end - start);
      if (s + 1 < stages_.size()) HandOver(stages_[s], clock);
    }
    outcome.seconds = *std::max_element(clock.begin(), clock.end()) + fixed_seconds_;
    outcome.slowest_stage += fixed_seconds_;
    return outcome;
  }

  const std::vector<StageClock>& stages() const { return stages_; }

 private:
  struct Run {
    std::vector<double>& clock;
    std::vector<double>& imbalances;
  };

  bool IsMoeLayer(int layer) const {
    const std::vector<bool>& moe = input_.model.moe_layers;
    return layer < static_cast<int>(moe.size()) && moe[layer];
  }

  // Returns the number of the model's next MoE layer.
  int RunStage(int step, size_t s, int moe_layer, const Run& run) {
    StageClock& stage = stages_[s];
    int of_stage = 0;
    for (int layer = stage.layers().begin; layer < stage.layers().end; ++layer) {
      if (!IsMoeLayer(layer)) {
        stage.RunDenseLayer(run.clock);
        continue;
      }
      DrawLayer(step, moe_layer++);
      run.imbalances.push_back(stage.RunMoeLayer(of_stage++, {routing_, draws_.scale}, run.clock));
    }
    if (s + 1 == stages_.size()) stage.RunHead(run.clock);
    return moe_layer;
  }

  // A stream of its own for each (step, layer): what one layer draws moves no other.
  void DrawLayer(int step, int moe_layer) {
    const uint64_t layers = static_cast<uint64_t>(input_.model.MoeLayers());
    Rng rng(input_.seed, static_cast<uint64_t>(step) * layers + static_cast<uint64_t>(moe_layer));
    const ExpertSampler& sampler = samplers_[samplers_.size() == 1 ? 0 : moe_layer];
    for (size_t d = 0; d < draws_.tokens.size(); ++d) {
      routing_.experts_by_dp[d].clear();
      sampler.Draw(draws_.tokens[d], routing_.top_k, rng, routing_.experts_by_dp[d]);
    }
  }

  void HandOver(const StageClock& from, std::vector<double>& clock) const {
    const int size = static_cast<int>(clock.size());
    for (int r = 0; r < size; ++r) {
      const int sender = input_.candidate.devices[from.first_rank() + r];
      const int receiver = input_.candidate.devices[from.first_rank() + size + r];
      const LinkCost link = input_.cluster.CostBetween(sender, receiver);
      clock[r] += link.alpha + HandOverBytes(input_, r) / link.bandwidth;
    }
  }

  const SimulateInput& input_;
  Draws draws_;
  std::vector<ExpertSampler> samplers_;  // [MoE layers], or one for all
  LayerExperts even_;
  ExchangeRouting routing_;
  std::vector<StageClock> stages_;
  double fixed_seconds_ = 0;
};

// The smallest value that at least `share` of the sorted values do not exceed.
double Percentile(const std::vector<double>& sorted, double share) {
  const double rank = std::ceil(share * static_cast<double>(sorted.size()) - 1e-9);
  const size_t index = static_cast<size_t>(std::max(1.0, rank)) - 1;
  return sorted[std::min(index, sorted.size() - 1)];
}

double Mean(const std::vector<double>& values) {
  double sum = 0;
  for (const double value : values) sum += value;
  return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace

absl::StatusOr<SimulateResult> Simulate(const SimulateInput& input) {
  RETURN_IF_ERROR(CheckSimulateInput(input));
  const StepCost cost = CostOfStep(input.model, input.cluster, input.candidate, input.load);
  Replica replica(input, cost);
  SimulateResult result;
  std::vector<double> imbalances;
  double intervals = 0;
  for (int step = 0; step < input.steps; ++step) {
    const StepOutcome outcome = replica.RunStep(step, imbalances);
    result.step_seconds.push_back(outcome.seconds);
    intervals += outcome.slowest_stage;
  }
  result.mean_seconds = Mean(result.step_seconds);
  if (!std::isfinite(result.mean_seconds) || !(result.mean_seconds > 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "a step takes ", result.mean_seconds,
        " s: a hardware profile or link of the cluster has a rate of 0; see its fields"));
  }
  std::vector<double> sorted = result.step_seconds;
  std::sort(sorted.begin(), sorted.end());
  result.p50_seconds = Percentile(sorted, 0.50);
  result.p95_seconds = Percentile(sorted, 0.95);
  result.p99_seconds = Percentile(sorted, 0.99);
  result.max_seconds = sorted.back();
  result.tokens_per_second = input.load.tokens * input.steps / intervals;
  result.imbalance_mean = imbalances.empty() ? 1 : Mean(imbalances);
  result.imbalance_max =
      imbalances.empty() ? 1 : *std::max_element(imbalances.begin(), imbalances.end());
  result.links = ReportLinks(input, replica.stages(), {input.steps, result.mean_seconds});
  return result;
}

}  // namespace conclave
