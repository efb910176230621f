#include <algorithm>
#include <memory>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "placement/cost/cost_model.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/calibration.h"

namespace conclave {
namespace {

constexpr int kFewLayers = 2;
constexpr int kManyLayers = 10;
constexpr int kContextTokens = 64;
constexpr int kSteps = 48;
constexpr int kPrompts = 15;
constexpr int kPromptTokens = 96;

// A model whose weights and products take next to no time.
ModelShape TinyShape(int layers) {
  ModelShape shape;
  shape.architecture = Architecture::kQwen3Moe;
  shape.name = "calibrate";
  shape.layers = layers;
  shape.hidden = 64;
  shape.heads = shape.kv_heads = 8;
  shape.head_dim = 16;
  shape.qk_norm = QkNorm::kPerHead;
  shape.ffn = 64;
  shape.vocab = 256;
  shape.context_tokens = 256;
  shape.moe = {.experts = 16, .top_k = 2, .ffn = 64, .normalize_top_k = true};
  return shape;
}

// One whose products' fixed work shows.
ModelShape SmallShape() {
  ModelShape shape = TinyShape(4);
  shape.hidden = 320;
  shape.heads = 5;
  shape.kv_heads = 5;
  shape.head_dim = 64;
  shape.moe = {.experts = 12, .top_k = 2, .ffn = 160, .normalize_top_k = true};
  return shape;
}

struct TinyRun {
  ModelShape shape;
  int tp = 1;
  int prompt_tokens = 0;  // 0: a decode step, else a prompt of so many
};

absl::StatusOr<ParallelSpec> SpecOf(const TinyRun& run) {
  ParallelSpec spec;
  spec.tp = run.tp;
  return ResolveParallelSpec(spec, run.shape);
}

// Median seconds of a step, each as long as its slowest rank.
absl::StatusOr<double> Measure(const TinyRun& run, int threads) {
  EngineClusterOptions options;
  options.shape = run.shape;
  options.source.dummy = true;
  ASSIGN_OR_RETURN(options.spec, SpecOf(run));
  options.threads = std::max(1, threads / run.tp);
  options.cache.pages_max = options.shape.context_tokens / options.cache.page_tokens;
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(options));
  const bool prefill = run.prompt_tokens > 0;
  const BenchSize size = {.batch = 1,
                          .input_tokens = prefill ? run.prompt_tokens : kContextTokens - kSteps / 2,
                          .output_tokens = prefill ? 1 : kSteps};
  const std::vector<EngineRequest> requests = RandomRequests(size, options.shape.vocab);
  RETURN_IF_ERROR(cluster->Run(requests, 0).status());
  std::vector<double> seconds;
  for (int round = 0; round < (prefill ? kPrompts : 1); ++round) {
    ASSIGN_OR_RETURN(const EngineRun result, cluster->Run(requests, 0));
    for (size_t step = prefill ? 0 : 1; step < result.steps.size(); ++step) {
      int64_t slowest = 0;
      for (const StepResult& rank : result.steps[step]) {
        slowest = std::max(slowest, rank.timings.total_us);
      }
      seconds.push_back(static_cast<double>(slowest) * 1e-6);
    }
  }
  return Percentile(std::move(seconds), 0.5);
}

absl::StatusOr<double> Predict(const TinyRun& run, const HardwareProfile& profile,
                               const LinkCost& host) {
  ASSIGN_OR_RETURN(ClusterTopology cluster,
                   BuiltinCluster(absl::StrCat(profile.name, ":", run.tp)));
  RETURN_IF_ERROR(ReplaceProfile({profile, host}, &cluster));
  ASSIGN_OR_RETURN(const ParallelSpec spec, SpecOf(run));
  std::vector<int> devices(run.tp);
  std::iota(devices.begin(), devices.end(), 0);
  const Candidate candidate =
      EvenCandidate(spec, ScheduleKind::kPcc, run.shape.layers, std::move(devices));
  const StepLoad load =
      run.prompt_tokens > 0 ? PrefillLoad(1, run.prompt_tokens) : DecodeLoad(1, kContextTokens);
  return CostOfStep(DimsOf(run.shape), cluster, candidate, load).seconds;
}

// The machine as it is known so far.
struct Machine {
  HardwareProfile* profile;
  LinkCost* host;
};

// The cost model is linear in each of the figures fitted here: seconds = at_zero + slope * figure.
struct Line {
  double at_zero = 0;
  double slope = 0;
  double FigureAt(double seconds) const { return std::max(0.0, (seconds - at_zero) / slope); }
};

// Of `figure`, which is a part of `machine`; leaves it zero.
absl::StatusOr<Line> LineOf(const TinyRun& run, const Machine& machine, double* figure) {
  constexpr double kUnit = 1e-6;
  *figure = kUnit;
  ASSIGN_OR_RETURN(const double at_unit, Predict(run, *machine.profile, *machine.host));
  *figure = 0;
  ASSIGN_OR_RETURN(const double at_zero, Predict(run, *machine.profile, *machine.host));
  return Line{at_zero, (at_unit - at_zero) / kUnit};
}

// From the difference of two depths, in which what every step costs drops out; then from the rest.
absl::Status FitOneWorker(int threads, const Machine& machine) {
  const TinyRun few_layers = {TinyShape(kFewLayers)}, many_layers = {TinyShape(kManyLayers)};
  ASSIGN_OR_RETURN(const double few, Measure(few_layers, threads));
  ASSIGN_OR_RETURN(const double many, Measure(many_layers, threads));
  double* const kernel = &machine.profile->kernel_seconds;
  double* const step = &machine.profile->step_seconds;
  *step = 0;
  ASSIGN_OR_RETURN(const Line low, LineOf(few_layers, machine, kernel));
  ASSIGN_OR_RETURN(const Line high, LineOf(many_layers, machine, kernel));
  *kernel = Line{high.at_zero - low.at_zero, high.slope - low.slope}.FigureAt(many - few);
  ASSIGN_OR_RETURN(const Line rest, LineOf(few_layers, machine, step));
  *step = rest.FigureAt(few);
  return absl::OkStatus();
}

absl::Status FitRun(const TinyRun& run, int threads, const Machine& machine, double* figure) {
  ASSIGN_OR_RETURN(const double seconds, Measure(run, threads));
  ASSIGN_OR_RETURN(const Line line, LineOf(run, machine, figure));
  *figure = line.FigureAt(seconds);
  return absl::OkStatus();
}

double OverlapOf(double seconds, const HardwareProfile& profile) {
  using Size = PrefillFfn;
  const double weights = 3.0 * Size::kExperts * Size::kHidden * Size::kFfn;
  const double depth = 3 / (2.0 / Size::kHidden + 1.0 / Size::kFfn);
  const double compute = 2 * Size::kRowsEach * weights / profile.flops.at(NumberFormat::kBf16) *
                         (1 + profile.product_depth / depth);
  const double move = NumberFormatBytes(NumberFormat::kBf16) * weights /
                      (profile.memory_bandwidth * profile.stream_efficiency);
  const double hidden = 1 - (seconds - std::max(compute, move)) / std::min(compute, move);
  return std::clamp(hidden, 0.0, 1.0);
}

}  // namespace

absl::Status FitCpuSteps(int threads, const DeviceCalibration& found, HardwareProfile* profile,
                         LinkCost* host) {
  const Machine machine = {profile, host};
  profile->overlap = 1;
  RETURN_IF_ERROR(FitOneWorker(threads, machine));
  RETURN_IF_ERROR(
      FitRun({SmallShape(), 1, kPromptTokens}, threads, machine, &profile->product_depth));
  profile->overlap = OverlapOf(found.prefill_ffn_seconds, *profile);
  profile->cores = threads;
  profile->crowded_seconds = 0;
  if (threads >= 2)
    RETURN_IF_ERROR(FitRun({TinyShape(kManyLayers), 2}, threads, machine, &host->alpha));
  int crowd = 2;
  while (crowd <= threads) crowd *= 2;
  constexpr int kWidest = 8;  // of a tp group
  if (crowd > kWidest) return absl::OkStatus();
  return FitRun({TinyShape(kManyLayers), crowd}, threads, machine, &profile->crowded_seconds);
}

}  // namespace conclave
