// `bench kernels`: every operator of a step on a GPU, timed alone, against the measured roofline:
// the larger of its bytes over the read bandwidth and its flops over the matrix rate.
#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <map>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "comm/base/status.h"
#include "kernels/tile_gemm/matrix_rate.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/commands.h"
#include "tools/cli/trace_file.h"

namespace conclave {
namespace {

constexpr int kDecodeSteps = 6;  // the first ones warm up and are dropped
constexpr int kDecodeStepsDropped = 2;

struct Limits {
  double bytes_per_s = 0;
  double flops_per_s = 0;
};

// All runs of one operator in a step.
struct OperatorRow {
  std::string name;
  int runs = 0;
  double us = 0;
  double bytes = 0;
  double flops = 0;

  double Roofline(const Limits& limits) const {
    return std::max(bytes / limits.bytes_per_s, flops / limits.flops_per_s) * 1e6;
  }
};

// Collects one list of spans for each step.
struct StepSpans {
  absl::Mutex mutex;
  std::vector<std::vector<OpSpan>> steps ABSL_GUARDED_BY(mutex);
};

// Operators in the order of their first run.
std::vector<OperatorRow> RowsOf(absl::Span<const std::vector<OpSpan>> steps) {
  std::vector<OperatorRow> rows;
  std::map<std::string, size_t> index;
  for (const std::vector<OpSpan>& step : steps) {
    for (const OpSpan& span : step) {
      const auto [it, is_new] = index.emplace(span.name, rows.size());
      if (is_new) rows.push_back({span.name});
      OperatorRow& row = rows[it->second];
      ++row.runs;
      row.us += span.duration_us / steps.size();
      row.bytes += span.bytes / steps.size();
      row.flops += span.flops / steps.size();
    }
  }
  for (OperatorRow& row : rows) row.runs /= static_cast<int>(steps.size());
  return rows;
}

void PrintTable(const std::string& title, const std::vector<OperatorRow>& rows,
                const Limits& limits) {
  std::cout << title << "\n";
  std::cout << absl::StrFormat("  %-18s %5s %11s %11s %10s %9s %9s %9s\n", "operator", "runs",
                               "us a run", "us a step", "MB a step", "GB/s", "TFLOP/s", "roofline");
  double total_us = 0;
  double total_roofline = 0;
  for (const OperatorRow& row : rows) {
    const double roofline = row.Roofline(limits);
    total_us += row.us;
    total_roofline += roofline;
    std::cout << absl::StrFormat("  %-18s %5d %11.2f %11.1f %10.2f %9.0f %9.2f %8.0f%%\n", row.name,
                                 row.runs, row.us / std::max(1, row.runs), row.us, row.bytes / 1e6,
                                 row.bytes / row.us / 1e3, row.flops / row.us / 1e6,
                                 100 * roofline / row.us);
  }
  std::cout << absl::StrFormat("  %-18s %5s %11s %11.1f %49.0f%%\n", "all, one by one", "", "",
                               total_us, 100 * total_roofline / total_us);
}

boost::json::array JsonRows(const std::vector<OperatorRow>& rows, const Limits& limits) {
  boost::json::array out;
  for (const OperatorRow& row : rows) {
    out.push_back({{"operator", row.name},
                   {"runs", row.runs},
                   {"us_per_step", row.us},
                   {"bytes_per_step", row.bytes},
                   {"flops_per_step", row.flops},
                   {"roofline_share", row.Roofline(limits) / row.us}});
  }
  return out;
}

void Print(const BenchKernelsOptions& options, int batch,
           const std::vector<std::vector<OpSpan>>& steps, const Limits& limits) {
  const size_t decode = std::min<size_t>(steps.size(), kDecodeSteps);
  const size_t prefill = steps.size() - decode;
  const auto all = absl::MakeConstSpan(steps);
  const auto prefill_rows = RowsOf(all.first(prefill));
  const auto decode_rows =
      RowsOf(all.subspan(prefill + std::min<size_t>(decode, kDecodeStepsDropped)));
  if (options.json) {
    const boost::json::object out = {{"batch", batch},
                                     {"input_len", options.input_tokens},
                                     {"read_bytes_per_s", limits.bytes_per_s},
                                     {"matrix_flops_per_s", limits.flops_per_s},
                                     {"prefill", JsonRows(prefill_rows, limits)},
                                     {"decode", JsonRows(decode_rows, limits)}};
    std::cout << boost::json::serialize(out) << "\n";
    return;
  }
  std::cout << absl::StrFormat("%s, %d x %d tokens; measured: %.0f GB/s read, %.0f TFLOP/s bf16\n",
                               options.model.model, batch, options.input_tokens,
                               limits.bytes_per_s / 1e9, limits.flops_per_s / 1e12);
  PrintTable(absl::StrCat("prefill, mean of ", prefill, " steps"), prefill_rows, limits);
  PrintTable("decode, mean step", decode_rows, limits);
}

}  // namespace

absl::Status RunBenchKernels(const BenchKernelsOptions& options,
                             const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const ResolvedModel model, ResolveModel(options.model));
  BenchSize largest = {1, options.input_tokens, kDecodeSteps + 1};
  for (const int batch : options.batches) largest.batch = std::max(largest.batch, batch);
  ASSIGN_OR_RETURN(EngineClusterOptions cluster_options,
                   BenchClusterOptions(options.model, model, largest));
  if (cluster_options.gpu < 0) {
    return absl::InvalidArgumentError(
        "bench kernels times GPU operators; give --device cuda:N on a machine with a GPU (the "
        "CPU's are measured by the binaries kernels/*_bench)");
  }
  Limits limits;
  ASSIGN_OR_RETURN(limits.bytes_per_s, MeasureDeviceRead(cluster_options.gpu));
  ASSIGN_OR_RETURN(limits.flops_per_s, MeasureMatrixRate());
  StepSpans log;
  cluster_options.trace = [&log](std::vector<OpSpan> spans) {
    absl::MutexLock lock(&log.mutex);
    log.steps.push_back(std::move(spans));
  };
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(cluster_options));
  std::vector<OpSpan> all;
  for (const int batch : options.batches) {
    if (cancelled.load()) return absl::CancelledError("interrupted");
    const BenchSize size = {batch, options.input_tokens, kDecodeSteps + 1};
    const int chunk = std::max(1, options.model.batch_tokens_max / batch);
    const std::vector<EngineRequest> requests = RandomRequests(size, model.shape.vocab);
    std::vector<EngineRequest> warmup = requests;
    for (EngineRequest& request : warmup) request.tokens_max = 2;
    RETURN_IF_ERROR(cluster->Run(warmup, chunk).status());
    {
      absl::MutexLock lock(&log.mutex);
      log.steps.clear();
    }
    RETURN_IF_ERROR(cluster->Run(requests, chunk).status());
    absl::MutexLock lock(&log.mutex);
    Print(options, batch, log.steps, limits);
    for (const std::vector<OpSpan>& step : log.steps)
      all.insert(all.end(), step.begin(), step.end());
  }
  if (options.trace_path.empty()) return absl::OkStatus();
  return WriteChromeTrace("--trace", options.trace_path, all);
}

}  // namespace conclave
