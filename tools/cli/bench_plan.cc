// `bench plan`: how far `plan` can be trusted here. Calibrates this machine (or takes a profile),
// foretells prefill and decode of models and grids with the cost model, measures the same, and
// prints both. The memory and the cores of a shared machine waver from minute to minute: on CPUs
// they are probed around each measurement, and the forecast uses what was there at the time.
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <iostream>
#include <numeric>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "placement/cost/cost_model.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/calibration.h"
#include "tools/cli/commands.h"
#include "tools/cli/latency_report.h"
#include "tools/cli/plan_inputs.h"

namespace conclave {
namespace {

struct Case {
  ModelOptions model;
  ResolvedModel resolved;
  BenchSize size;
};

struct Forecast {
  double prefill_ms = 0;
  double decode_ms = 0;
};

struct Outcome {
  Forecast predicted;
  Forecast measured;
};

// Of `machine`, whose workers share it when it is a CPU.
absl::StatusOr<Forecast> Predict(const Case& c, MeasuredHardware machine) {
  const int workers = c.resolved.spec.WorkerCount();
  // Of an unknown chip's node only the links matter, and one device uses none.
  if (!BuiltinProfile(machine.profile.name).ok()) machine.profile.name = "h200";
  ASSIGN_OR_RETURN(ClusterTopology cluster,
                   BuiltinCluster(absl::StrCat(machine.profile.name, ":", workers)));
  RETURN_IF_ERROR(ReplaceProfile(machine, &cluster));
  ModelDims dims = DimsOf(c.resolved.shape);
  if (machine.profile.shared_by_node != 0) {
    dims.kv_format = NumberFormat::kF32;
  } else if (c.model.quantization != "none") {
    ASSIGN_OR_RETURN(dims.format, ParseNumberFormat(c.model.quantization));
    dims.expert_format = dims.format;
  }
  std::vector<int> devices(workers);
  std::iota(devices.begin(), devices.end(), 0);
  ASSIGN_OR_RETURN(const std::optional<ScheduleKind> schedule,
                   ParseSchedule("--exchange", c.model.exchange));
  const Candidate candidate =
      EvenCandidate(c.resolved.spec, *schedule, c.resolved.shape.layers, std::move(devices));
  // Prompts longer than a step's tokens come in chunks; each sees half of the whole on average.
  StepLoad prefill = PrefillLoad(c.size.batch, c.size.input_tokens);
  const double chunks = std::ceil(prefill.tokens / c.model.batch_tokens_max);
  prefill.tokens /= chunks;
  prefill.logit_rows /= chunks;
  const double context = c.size.input_tokens + c.size.output_tokens / 2.0;
  Forecast forecast;
  forecast.prefill_ms = 1e3 * chunks * CostOfStep(dims, cluster, candidate, prefill).seconds;
  forecast.decode_ms =
      1e3 * CostOfStep(dims, cluster, candidate, DecodeLoad(c.size.batch, context)).seconds;
  return forecast;
}

// The profile with the memory and the products as the probes found them.
MeasuredHardware AtTheTime(MeasuredHardware machine, const CpuProbe& before,
                           const CpuProbe& after) {
  HardwareProfile& profile = machine.profile;
  profile.memory_bandwidth = (before.read_bandwidth + after.read_bandwidth) / 2;
  const double products = (before.bf16_flops + after.bf16_flops) / 2;
  const double was = profile.flops.at(NumberFormat::kBf16);
  for (auto& [format, rate] : profile.flops) rate *= products / was;
  profile.attention_flops *= products / was;
  return machine;
}

// Medians of several runs, more of short ones.
absl::StatusOr<Forecast> Measure(const Case& c, EngineCluster& cluster) {
  constexpr int kRunsMin = 3, kRunsMax = 15;
  constexpr double kEnoughMs = 3000;
  std::vector<double> prefill;
  std::vector<double> decode;
  for (double spent = 0;
       prefill.size() < kRunsMin || (prefill.size() < kRunsMax && spent < kEnoughMs);) {
    ASSIGN_OR_RETURN(const LatencyReport report, MeasureLatency(c.size, c.model.batch_tokens_max,
                                                                cluster, c.resolved.shape.vocab));
    prefill.push_back(report.prefill_ms);
    decode.push_back(report.decode_p50_ms);
    spent += report.prefill_ms + c.size.output_tokens * report.decode_p50_ms;
  }
  return Forecast{Percentile(std::move(prefill), 0.5), Percentile(std::move(decode), 0.5)};
}

absl::StatusOr<Outcome> Compare(const Case& c, const MeasuredHardware& machine, int threads) {
  ASSIGN_OR_RETURN(const EngineClusterOptions options,
                   BenchClusterOptions(c.model, c.resolved, c.size));
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(options));
  const bool probes = options.gpu < 0;
  const CpuProbe before = probes ? ProbeCpu(threads) : CpuProbe();
  Outcome outcome;
  ASSIGN_OR_RETURN(outcome.measured, Measure(c, *cluster));
  const CpuProbe after = probes ? ProbeCpu(threads) : CpuProbe();
  ASSIGN_OR_RETURN(outcome.predicted,
                   Predict(c, probes ? AtTheTime(machine, before, after) : machine));
  return outcome;
}

void Print(const BenchPlanOptions& options, const Case& c, const Outcome& outcome) {
  const auto ratio = [](double predicted, double measured) { return predicted / measured; };
  const Forecast& p = outcome.predicted;
  const Forecast& m = outcome.measured;
  if (!options.json) {
    std::cout << absl::StrFormat("%-24s %-22s %5d  %9.2f %9.2f %5.2f  %9.2f %9.2f %5.2f",
                                 c.model.model, c.resolved.spec.ToString(), c.size.batch,
                                 p.prefill_ms, m.prefill_ms, ratio(p.prefill_ms, m.prefill_ms),
                                 p.decode_ms, m.decode_ms, ratio(p.decode_ms, m.decode_ms))
              << std::endl;
    return;
  }
  boost::json::object out;
  out["model"] = c.model.model;
  out["parallel"] = c.resolved.spec.ToString();
  out["batch"] = c.size.batch;
  out["prefill_predicted_ms"] = p.prefill_ms;
  out["prefill_measured_ms"] = m.prefill_ms;
  out["decode_predicted_ms"] = p.decode_ms;
  out["decode_measured_ms"] = m.decode_ms;
  std::cout << boost::json::serialize(out) << std::endl;
}

absl::StatusOr<std::vector<Case>> MakeCases(const BenchPlanOptions& options) {
  std::vector<Case> cases;
  for (const std::string& model : options.models) {
    for (const std::string& grid : options.grids) {
      for (const int batch : options.batches) {
        Case c;
        c.model.model = model;
        c.model.parallel = grid;
        c.model.device = options.device;
        c.model.threads = 0;
        c.model.exchange = options.exchange;
        c.model.batch_tokens_max = options.batch_tokens_max;
        c.size = {batch, options.input_tokens, options.output_tokens};
        ASSIGN_OR_RETURN(c.resolved, ResolveModel(c.model));
        cases.push_back(std::move(c));
      }
    }
  }
  return cases;
}

}  // namespace

absl::Status RunBenchPlan(const BenchPlanOptions& options, const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const std::vector<Case> cases, MakeCases(options));
  MeasuredHardware machine;
  if (options.profile_path.empty()) {
    if (!options.json) std::cout << "measuring this machine" << std::endl;
    ASSIGN_OR_RETURN(machine, MeasureHardware(options.device, 0, cancelled));
  } else {
    ASSIGN_OR_RETURN(machine, ReadMeasuredHardware("--profile", options.profile_path));
  }
  if (!options.json) {
    std::cout << absl::StrFormat("%-24s %-22s %5s  %25s  %25s\n", "", "", "",
                                 "prefill ms: plan, here", "decode ms: plan, here");
  }
  for (const Case& c : cases) {
    if (cancelled.load()) return absl::CancelledError("interrupted");
    ASSIGN_OR_RETURN(const Outcome outcome, Compare(c, machine, MachineProcessors()));
    Print(options, c, outcome);
  }
  return absl::OkStatus();
}

}  // namespace conclave
