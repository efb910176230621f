#include <sys/resource.h>

#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "tools/cli/commands.h"
#include "tools/cli/memory_bandwidth.h"
#include "worker/engine/engine_cluster.h"

namespace conclave {
namespace {

constexpr int64_t kBandwidthProbeBytes = int64_t{4} << 30;  // several times any last-level cache
constexpr uint64_t kPromptSeed = 1;

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

double Percentile(std::vector<double> values, double share) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1, static_cast<size_t>(share * values.size()))];
}

std::vector<EngineRequest> RandomRequests(const BenchLatencyOptions& options, int vocab) {
  Rng rng(kPromptSeed);
  std::vector<EngineRequest> requests(options.batch);
  for (EngineRequest& request : requests) {
    for (int i = 0; i < options.input_tokens; ++i) {
      request.prompt.push_back(static_cast<int32_t>(rng.Below(vocab)));
    }
    request.tokens_max = options.output_tokens;
  }
  return requests;
}

// Steps that took a prompt's last token or an earlier one come first; a step lasts as long as its
// slowest rank.
Report Summarize(const BenchLatencyOptions& options, const EngineRun& run) {
  const size_t decode_steps = std::max(0, options.output_tokens - 1);
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
  report.prefill_tokens_per_s = options.batch * options.input_tokens / report.prefill_ms * 1e3;
  const double total = std::accumulate(decode_ms.begin(), decode_ms.end(), 0.0);
  report.decode_p50_ms = Percentile(decode_ms, 0.5);
  report.decode_p99_ms = Percentile(decode_ms, 0.99);
  if (total > 0) report.decode_tokens_per_s = options.batch * decode_ms.size() / total * 1e3;
  report.bytes_per_step = Percentile(bytes, 0.5);
  if (report.decode_p50_ms > 0) {
    report.gigabytes_per_s = report.bytes_per_step / report.decode_p50_ms / 1e6;
  }
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  report.peak_memory_gb = usage.ru_maxrss / 1e6 * 1.024;
  return report;
}

void PrintJson(const BenchLatencyOptions& options, const ResolvedModel& model, const Report& r) {
  boost::json::object out;
  out["model"] = options.model.model;
  out["parallel"] = model.spec.ToString();
  out["weights"] = model.dummy ? "dummy" : "checkpoint";
  out["batch"] = options.batch;
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

void PrintTable(const BenchLatencyOptions& options, const ResolvedModel& model, const Report& r) {
  std::cout << absl::StrFormat("%s, %s, %s weights, batch %d, %d tokens in, %d out\n",
                               options.model.model, model.spec.ToString(),
                               model.dummy ? "random" : "checkpoint", options.batch,
                               options.input_tokens, options.output_tokens);
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

absl::StatusOr<EngineClusterOptions> ClusterOptions(const BenchLatencyOptions& options,
                                                    const ResolvedModel& model) {
  const int context = options.input_tokens + options.output_tokens;
  if (context > model.shape.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "--input-len ", options.input_tokens, " and --output-len ", options.output_tokens,
        " exceed the model's ", model.shape.context_tokens, " positions; use less"));
  }
  EngineClusterOptions cluster;
  cluster.shape = model.shape;
  cluster.source = {options.model.model, model.dummy, 0};
  cluster.spec = model.spec;
  cluster.exchange = options.model.exchange == "naive" ? ExchangeKind::kNaive : ExchangeKind::kPcc;
  ASSIGN_OR_RETURN(cluster.cache.dtype, ParseDtype(options.model.kv_cache_dtype));
  cluster.cache.page_tokens = options.model.page_tokens;
  const int pages = context / cluster.cache.page_tokens + 1;
  const int sequences = (options.batch + model.spec.dp - 1) / model.spec.dp;
  cluster.cache.pages_max = pages * sequences;
  cluster.threads = options.model.threads > 0 ? options.model.threads
                                              : std::max(1, MachineProcessors() / model.workers);
  cluster.timeout = absl::Minutes(30);
  return cluster;
}

}  // namespace

absl::Status RunBenchLatency(const BenchLatencyOptions& options,
                             const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const ResolvedModel model, ResolveModel(options.model));
  ASSIGN_OR_RETURN(const EngineClusterOptions cluster_options, ClusterOptions(options, model));
  const double bandwidth = MeasureReadBandwidth(MachineProcessors(), kBandwidthProbeBytes);
  ASSIGN_OR_RETURN(std::unique_ptr<EngineCluster> cluster, EngineCluster::Create(cluster_options));
  if (cancelled.load()) return absl::CancelledError("interrupted");
  const std::vector<EngineRequest> requests = RandomRequests(options, model.shape.vocab);
  const int chunk = std::max(1, options.model.batch_tokens_max / options.batch);
  // The first run warms buffers and page tables; its figures are dropped.
  std::vector<EngineRequest> warmup = requests;
  for (EngineRequest& request : warmup) request.tokens_max = std::min(request.tokens_max, 2);
  RETURN_IF_ERROR(cluster->Run(warmup, chunk).status());
  if (cancelled.load()) return absl::CancelledError("interrupted");
  ASSIGN_OR_RETURN(const EngineRun run, cluster->Run(requests, chunk));
  Report report = Summarize(options, run);
  report.memory_gigabytes_per_s = bandwidth / 1e9;
  if (options.json) {
    PrintJson(options, model, report);
  } else {
    PrintTable(options, model, report);
  }
  return absl::OkStatus();
}

}  // namespace conclave
