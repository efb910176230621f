#include <sys/resource.h>

#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <numeric>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "comm/base/status.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/commands.h"
#include "tools/cli/trace_file.h"
#include "worker/engine/engine_cluster.h"

namespace conclave {
namespace {

struct Report {
  double prefill_ms = 0;
  double prefill_tokens_per_s = 0;
  double decode_p50_ms = 0;
  double decode_p99_ms = 0;
  double decode_tokens_per_s = 0;
  double bytes_per_step = 0;  // weights read by all ranks in a decode step, median
  double gigabytes_per_s = 0;
  double memory_gigabytes_per_s = 0;  // measured read bandwidth of the machine
  double peak_memory_gb = 0;
};

// Steps that took a prompt's last token or an earlier one come first; a step lasts as long as its
// slowest rank.
Report Summarize(const BenchSize& size, const EngineRun& run) {
  const size_t decode_steps = std::max(0, size.output_tokens - 1);
  const size_t prefill_steps = run.steps.size() - std::min(run.steps.size(), decode_steps);
  std::vector<double> decode_ms;
  std::vector<double> bytes;
  Report report;
  for (size_t i = 0; i < run.steps.size(); ++i) {
    double ms = 0;
    double read = 0;
    for (const StepResult& result : run.steps[i]) {
      ms = std::max(ms, result.timings.total_us / 1e3);
      read += static_cast<double>(result.weight_bytes_read);
    }
    if (i < prefill_steps) {
      report.prefill_ms += ms;
    } else {
      decode_ms.push_back(ms);
      bytes.push_back(read);
    }
  }
  report.prefill_tokens_per_s = size.batch * size.input_tokens / report.prefill_ms * 1e3;
  const double total = std::accumulate(decode_ms.begin(), decode_ms.end(), 0.0);
  report.decode_p50_ms = Percentile(decode_ms, 0.5);
  report.decode_p99_ms = Percentile(decode_ms, 0.99);
  if (total > 0) report.decode_tokens_per_s = size.batch * decode_ms.size() / total * 1e3;
  report.bytes_per_step = Percentile(bytes, 0.5);
  if (report.decode_p50_ms > 0) {
    report.gigabytes_per_s = report.bytes_per_step / report.decode_p50_ms / 1e6;
  }
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  report.peak_memory_gb = usage.ru_maxrss / 1e6 * 1.024;
  return report;
}

void PrintJson(const BenchLatencyOptions& options, int batch, const ResolvedModel& model,
               const Report& r) {
  boost::json::object out;
  out["model"] = options.model.model;
  out["parallel"] = model.spec.ToString();
  out["device"] = DeviceOfWorker(options.model, 0);
  out["quantization"] = options.model.quantization;
  out["weights"] = model.dummy ? "dummy" : "checkpoint";
  out["batch"] = batch;
  out["input_len"] = options.input_tokens;
  out["output_len"] = options.output_tokens;
  out["prefill_ms"] = r.prefill_ms;
  out["prefill_tokens_per_s"] = r.prefill_tokens_per_s;
  out["decode_ms_p50"] = r.decode_p50_ms;
  out["decode_ms_p99"] = r.decode_p99_ms;
  out["decode_tokens_per_s"] = r.decode_tokens_per_s;
  out["decode_weight_bytes_per_step"] = r.bytes_per_step;
  out["decode_gb_per_s"] = r.gigabytes_per_s;
  out["memory_read_gb_per_s"] = r.memory_gigabytes_per_s;
  out["memory_bandwidth_share"] = r.gigabytes_per_s / r.memory_gigabytes_per_s;
  out["peak_memory_gb"] = r.peak_memory_gb;
  std::cout << boost::json::serialize(out) << "\n";
}

void PrintTable(const BenchLatencyOptions& options, int batch, const ResolvedModel& model,
                const Report& r) {
  std::cout << absl::StrFormat("%s, %s, %s weights, batch %d, %d tokens in, %d out\n",
                               options.model.model, model.spec.ToString(),
                               model.dummy ? "random" : "checkpoint", batch, options.input_tokens,
                               options.output_tokens);
  std::cout << absl::StrFormat("  prefill       %10.1f ms   %10.1f tokens/s\n", r.prefill_ms,
                               r.prefill_tokens_per_s);
  std::cout << absl::StrFormat("  decode p50    %10.2f ms   %10.2f tokens/s\n", r.decode_p50_ms,
                               r.decode_tokens_per_s);
  std::cout << absl::StrFormat("  decode p99    %10.2f ms\n", r.decode_p99_ms);
  std::cout << absl::StrFormat("  weights read  %10.3f GB a decode step, %.1f GB/s\n",
                               r.bytes_per_step / 1e9, r.gigabytes_per_s);
  std::cout << absl::StrFormat(
      "  memory        %10.1f GB/s measured; decode runs at %.0f %% of it\n",
      r.memory_gigabytes_per_s, 100 * r.gigabytes_per_s / r.memory_gigabytes_per_s);
  std::cout << absl::StrFormat("  peak memory   %10.2f GB\n", r.peak_memory_gb);
}

}  // namespace

namespace {

// One batch: a run that warms buffers, page tables and graphs, whose figures are dropped, then the
// run that counts.
absl::StatusOr<Report> MeasureBatch(const BenchLatencyOptions& options, const BenchSize& size,
                                    EngineCluster& cluster, int vocab) {
  const std::vector<EngineRequest> requests = RandomRequests(size, vocab);
  const int chunk = std::max(1, options.model.batch_tokens_max / size.batch);
  std::vector<EngineRequest> warmup = requests;
  for (EngineRequest& request : warmup) request.tokens_max = std::min(request.tokens_max, 4);
  RETURN_IF_ERROR(cluster.Run(warmup, chunk).status());
  ASSIGN_OR_RETURN(const EngineRun run, cluster.Run(requests, chunk));
  return Summarize(size, run);
}

// Spans of all engines of a run.
struct SpanLog {
  absl::Mutex mutex;
  std::vector<OpSpan> spans ABSL_GUARDED_BY(mutex);
};

absl::Status WriteTrace(const BenchLatencyOptions& options, EngineClusterOptions cluster_options,
                        BenchSize size) {
  SpanLog log;
  cluster_options.trace = [&log](std::vector<OpSpan> spans) {
    absl::MutexLock lock(&log.mutex);
    log.spans.insert(log.spans.end(), spans.begin(), spans.end());
  };
  size.output_tokens = std::min(size.output_tokens, 3);
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(cluster_options));
  const int chunk = std::max(1, options.model.batch_tokens_max / size.batch);
  RETURN_IF_ERROR(cluster->Run(RandomRequests(size, cluster_options.shape.vocab), chunk).status());
  absl::MutexLock lock(&log.mutex);
  if (log.spans.empty()) {
    return absl::InvalidArgumentError("--trace: operators are timed on GPUs only; give --device");
  }
  return WriteChromeTrace("--trace", options.trace_path, log.spans);
}

}  // namespace

absl::Status RunBenchLatency(const BenchLatencyOptions& options,
                             const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const ResolvedModel model, ResolveModel(options.model));
  BenchSize largest = {1, options.input_tokens, options.output_tokens};
  for (const int batch : options.batches) largest.batch = std::max(largest.batch, batch);
  ASSIGN_OR_RETURN(const EngineClusterOptions cluster_options,
                   BenchClusterOptions(options.model, model, largest));
  ASSIGN_OR_RETURN(const double bandwidth, MeasureDeviceRead(cluster_options.gpu));
  {
    ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster,
                     EngineCluster::Create(cluster_options));
    for (const int batch : options.batches) {
      if (cancelled.load()) return absl::CancelledError("interrupted");
      const BenchSize size = {batch, options.input_tokens, options.output_tokens};
      ASSIGN_OR_RETURN(Report report, MeasureBatch(options, size, *cluster, model.shape.vocab));
      report.memory_gigabytes_per_s = bandwidth / 1e9;
      if (options.json) {
        PrintJson(options, batch, model, report);
      } else {
        PrintTable(options, batch, model, report);
      }
    }
  }
  if (options.trace_path.empty()) return absl::OkStatus();
  return WriteTrace(options, cluster_options, largest);
}

}  // namespace conclave
