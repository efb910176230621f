// `conclave bench ablation`: what each part of the fused path brings, in the spirit of figure 10a
// of arXiv 2207.00032: one row for each part added, milliseconds of a decode step.

#include <algorithm>
#include <boost/json.hpp>
#include <iostream>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/commands.h"

namespace conclave {
namespace {

struct AblationRow {
  const char* name;
  FastTuning tuning;
};

// Each row has all of the rows above it.
std::vector<AblationRow> AblationRows() {
  FastTuning tuning;
  tuning.fusion = tuning.stream = tuning.graphs = tuning.overlap = tuning.token_step = false;
  std::vector<AblationRow> rows = {{"unfused", tuning}};
  tuning.fusion = true;
  rows.push_back({"+ Deep-Fusion", tuning});
  tuning.stream = true;
  rows.push_back({"+ SBI-GeMM", tuning});
  tuning.graphs = true;
  rows.push_back({"+ CUDA graphs", tuning});
  tuning.overlap = true;
  rows.push_back({"+ overlap", tuning});
  tuning.token_step = true;
  rows.push_back({"+ one kernel a token", tuning});
  return rows;
}

// Median of the decode steps of a run.
double DecodeMs(const BenchSize& size, const EngineRun& run) {
  const size_t decode_steps = std::max(0, size.output_tokens - 1);
  const size_t first = run.steps.size() - std::min(run.steps.size(), decode_steps);
  std::vector<double> ms;
  for (size_t i = first; i < run.steps.size(); ++i) {
    double slowest = 0;
    for (const StepResult& result : run.steps[i]) {
      slowest = std::max(slowest, result.timings.total_us / 1e3);
    }
    ms.push_back(slowest);
  }
  return Percentile(std::move(ms), 0.5);
}

// By batch. A first run captures graphs and warms buffers.
absl::StatusOr<std::vector<double>> MeasureRow(const BenchAblationOptions& options,
                                               const EngineClusterOptions& cluster_options) {
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(cluster_options));
  std::vector<double> ms;
  for (const int batch : options.batches) {
    const BenchSize size = {batch, options.input_tokens, options.output_tokens};
    const int chunk = std::max(1, options.model.batch_tokens_max / batch);
    const std::vector<EngineRequest> requests = RandomRequests(size, cluster_options.shape.vocab);
    std::vector<EngineRequest> warmup = requests;
    for (EngineRequest& request : warmup) request.tokens_max = std::min(request.tokens_max, 4);
    RETURN_IF_ERROR(cluster->Run(warmup, chunk).status());
    ASSIGN_OR_RETURN(const EngineRun run, cluster->Run(requests, chunk));
    ms.push_back(DecodeMs(size, run));
  }
  return ms;
}

void PrintRow(const BenchAblationOptions& options, const AblationRow& row,
              const std::vector<double>& ms) {
  if (!options.json) {
    std::cout << absl::StrFormat("  %-22s", row.name);
    for (const double value : ms) std::cout << absl::StrFormat("%12.2f", value);
    std::cout << "\n" << std::flush;
    return;
  }
  boost::json::object out;
  out["part"] = row.name;
  for (size_t i = 0; i < ms.size(); ++i) {
    out[absl::StrCat("batch_", options.batches[i], "_ms")] = ms[i];
  }
  std::cout << boost::json::serialize(out) << "\n";
}

}  // namespace

absl::Status RunBenchAblation(const BenchAblationOptions& options,
                              const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const ResolvedModel model, ResolveModel(options.model));
  BenchSize largest = {1, options.input_tokens, options.output_tokens};
  for (const int batch : options.batches) largest.batch = std::max(largest.batch, batch);
  ASSIGN_OR_RETURN(EngineClusterOptions cluster_options,
                   BenchClusterOptions(options.model, model, largest));
  if (cluster_options.gpu < 0) {
    return absl::InvalidArgumentError(
        "bench ablation: it takes parts of the GPU path away, and the device is the CPU; give "
        "--device cuda on a machine with a GPU");
  }
  if (options.model.deterministic || cluster_options.spec.WorkerCount() > 1) {
    return absl::InvalidArgumentError(
        "bench ablation: the fused path is one worker's and not --deterministic; leave out "
        "--deterministic and --parallel");
  }
  if (!options.json) {
    std::cout << options.model.model << ", " << options.input_tokens
              << " tokens in: ms of a decode step\n"
              << absl::StrFormat("  %-22s", "batch");
    for (const int batch : options.batches) std::cout << absl::StrFormat("%12d", batch);
    std::cout << "\n";
  }
  for (const AblationRow& row : AblationRows()) {
    if (cancelled.load()) return absl::CancelledError("interrupted");
    cluster_options.tuning = row.tuning;
    ASSIGN_OR_RETURN(const std::vector<double> ms, MeasureRow(options, cluster_options));
    PrintRow(options, row, ms);
  }
  return absl::OkStatus();
}

}  // namespace conclave
