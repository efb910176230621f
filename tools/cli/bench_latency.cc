#include <algorithm>
#include <boost/json.hpp>
#include <iostream>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "comm/base/status.h"
#include "tools/cli/bench_engine.h"
#include "tools/cli/commands.h"
#include "tools/cli/latency_report.h"
#include "tools/cli/trace_file.h"
#include "worker/engine/engine_cluster.h"

namespace conclave {
namespace {

boost::json::object PartsJson(const PartTimes& parts) {
  return {{"attention", parts.attention}, {"experts", parts.experts},
          {"exchange", parts.exchange},   {"collective", parts.collective},
          {"head", parts.head},           {"other", parts.other}};
}

std::string PartsText(const PartTimes& p) {
  return absl::StrFormat(
      "attention %.2f, experts %.2f, exchange %.2f, collectives %.2f, head %.2f, other %.2f ms",
      p.attention, p.experts, p.exchange, p.collective, p.head, p.other);
}

void PrintJson(const BenchLatencyOptions& options, int batch, const ResolvedModel& model,
               const LatencyReport& r) {
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
  out["prefill_parts_ms"] = PartsJson(r.prefill_parts);
  out["decode_parts_ms"] = PartsJson(r.decode_parts);
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
                const LatencyReport& r) {
  std::cout << absl::StrFormat("%s, %s, %s weights, batch %d, %d tokens in, %d out\n",
                               options.model.model, model.spec.ToString(),
                               model.dummy ? "random" : "checkpoint", batch, options.input_tokens,
                               options.output_tokens);
  std::cout << absl::StrFormat("  prefill       %10.1f ms   %10.1f tokens/s\n", r.prefill_ms,
                               r.prefill_tokens_per_s);
  std::cout << "    " << PartsText(r.prefill_parts) << "\n";
  std::cout << absl::StrFormat("  decode p50    %10.2f ms   %10.2f tokens/s\n", r.decode_p50_ms,
                               r.decode_tokens_per_s);
  std::cout << absl::StrFormat("  decode p99    %10.2f ms\n", r.decode_p99_ms);
  std::cout << "    " << PartsText(r.decode_parts) << "\n";
  std::cout << absl::StrFormat("  weights read  %10.3f GB a decode step, %.1f GB/s\n",
                               r.bytes_per_step / 1e9, r.gigabytes_per_s);
  std::cout << absl::StrFormat(
      "  memory        %10.1f GB/s measured; decode runs at %.0f %% of it\n",
      r.memory_gigabytes_per_s, 100 * r.gigabytes_per_s / r.memory_gigabytes_per_s);
  std::cout << absl::StrFormat("  peak memory   %10.2f GB\n", r.peak_memory_gb);
}

}  // namespace

namespace {

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
      ASSIGN_OR_RETURN(LatencyReport report, MeasureLatency(size, options.model.batch_tokens_max,
                                                            *cluster, model.shape.vocab));
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
