// LatencyReport: prefill and decode time of one batch on engines of this process, as `bench
// latency` prints it and `bench plan` compares it with what the planner foretold. Blocking; one
// thread.
#pragma once

#include "absl/status/statusor.h"
#include "tools/cli/bench_engine.h"
#include "worker/engine/engine_cluster.h"

namespace conclave {

// Where the time of steps went: the mean over ranks of each part, in ms.
struct PartTimes {
  double attention = 0;
  double experts = 0;  // dense FFN too
  double exchange = 0;
  double collective = 0;
  double head = 0;
  double other = 0;  // norms, gates, waits between the parts
};

struct LatencyReport {
  PartTimes prefill_parts;
  PartTimes decode_parts;  // of one step, mean
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

// One batch: a run that warms buffers, page tables and graphs, whose figures are dropped, then the
// run that counts. `batch_tokens_max`: prompt tokens of a step; longer prompts are cut into chunks.
absl::StatusOr<LatencyReport> MeasureLatency(const BenchSize& size, int batch_tokens_max,
                                             EngineCluster& cluster, int vocab);

}  // namespace conclave
