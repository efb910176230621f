#include "tools/cli/latency_report.h"

#include <sys/resource.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "comm/base/status.h"

namespace conclave {
namespace {

void AddParts(const std::vector<StepResult>& ranks, double times, PartTimes* sum) {
  const double ms = times / 1e3 / static_cast<double>(ranks.size());
  for (const StepResult& result : ranks) {
    const StepTimings& t = result.timings;
    sum->attention += ms * t.attention_us;
    sum->experts += ms * t.experts_us;
    sum->exchange += ms * t.exchange_us;
    sum->collective += ms * t.collective_us;
    sum->head += ms * t.head_us;
    sum->other += ms * (t.total_us - t.attention_us - t.experts_us - t.exchange_us -
                        t.collective_us - t.head_us);
  }
}

// Steps that took a prompt's last token or an earlier one come first; a step lasts as long as its
// slowest rank.
LatencyReport Summarize(const BenchSize& size, const EngineRun& run) {
  const size_t decode_steps = std::max(0, size.output_tokens - 1);
  const size_t prefill_steps = run.steps.size() - std::min(run.steps.size(), decode_steps);
  std::vector<double> decode_ms;
  std::vector<double> bytes;
  LatencyReport report;
  for (size_t i = 0; i < run.steps.size(); ++i) {
    double ms = 0;
    double read = 0;
    for (const StepResult& result : run.steps[i]) {
      ms = std::max(ms, result.timings.total_us / 1e3);
      read += static_cast<double>(result.weight_bytes_read);
    }
    if (i < prefill_steps) {
      report.prefill_ms += ms;
      AddParts(run.steps[i], 1, &report.prefill_parts);
    } else {
      AddParts(run.steps[i], 1.0 / decode_steps, &report.decode_parts);
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

}  // namespace

absl::StatusOr<LatencyReport> MeasureLatency(const BenchSize& size, int batch_tokens_max,
                                             EngineCluster& cluster, int vocab) {
  const std::vector<EngineRequest> requests = RandomRequests(size, vocab);
  const int chunk = std::max(1, batch_tokens_max / size.batch);
  std::vector<EngineRequest> warmup = requests;
  for (EngineRequest& request : warmup) request.tokens_max = std::min(request.tokens_max, 4);
  RETURN_IF_ERROR(cluster.Run(warmup, chunk).status());
  ASSIGN_OR_RETURN(const EngineRun run, cluster.Run(requests, chunk));
  return Summarize(size, run);
}

}  // namespace conclave
