// EngineCluster: a replica of engines in one process, on the CPU or sharing a GPU, driven as a
// coordinator would: assigns, commits, steps with continuous batching and paged caches, over
// fabrics of threads. For tests and measurements of the worker alone. One thread uses it; every
// wait has a deadline.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/local_fabric.h"
#include "comm/types/worker_facts.h"
#include "worker/engine/cpu_engine.h"
#include "worker/engine/cuda_engine.h"

namespace conclave {

// A plan as the planner makes it: units spread in blocks, layers cut evenly. `spec` is resolved
// against the shape.
ParallelPlan BlockPlan(const ParallelSpec& spec, const ModelShape& shape, Epoch epoch);

struct EngineClusterOptions {
  ModelShape shape;
  ModelSource source;
  ParallelSpec spec;
  ExchangeKind exchange = ExchangeKind::kPcc;
  PayloadFormat payload = PayloadFormat::kF32;  // of the exchange
  // [workers] Node of each rank, by name; empty: all on one.
  std::vector<std::string> nodes;
  CacheOptions cache;
  ComputeOptions compute;
  int gpu = -1;                                     // that all engines share; -1: CPUs
  int threads = 1;                                  // of each engine
  int64_t memory_bytes = 0;                         // of each engine
  absl::Duration peer_timeout = absl::Seconds(60);  // of each engine, see CpuEngineOptions
  absl::Duration timeout = absl::Seconds(60);       // of each wait for an engine
  TraceSink trace;                                  // of GPU engines, see CudaEngineOptions
  FastTuning tuning;                                // likewise
};

// One sequence to run to its end.
struct EngineRequest {
  std::vector<int32_t> prompt;
  int tokens_max = 0;        // to generate; 0: prefill only
  bool want_logits = false;  // of every position computed
  SamplingParams sampling = {0.0f};
  int dp = -1;         // dp group; -1: request index modulo dp
  int start_step = 0;  // joins the batch at this step
};

struct EngineAnswer {
  std::vector<int32_t> tokens;  // generated
  std::vector<float> logits;    // [positions computed, vocab] when wanted
};

struct EngineRun {
  std::vector<EngineAnswer> answers;           // by request
  std::vector<std::vector<StepResult>> steps;  // [steps][rank]
};

class EngineCluster {
 public:
  // Prepares and connects all engines as epoch 1.
  static absl::StatusOr<std::unique_ptr<EngineCluster>> Create(const EngineClusterOptions& options);
  ~EngineCluster();

  // Runs all requests to their ends, at most `chunk_tokens` prompt tokens of a sequence in a step
  // (0: whole prompts).
  absl::StatusOr<EngineRun> Run(const std::vector<EngineRequest>& requests, int chunk_tokens);

  // One step of given batches, [dp]; results by rank. The first fault of any rank is the error.
  absl::StatusOr<std::vector<StepResult>> Step(std::vector<std::vector<SequenceSlice>> batches);

  // A new epoch on the same engines; returns what each prepared, by rank.
  absl::StatusOr<std::vector<Prepared>> Assign(const ParallelPlan& plan);

  Engine& engine(int rank);
  const std::vector<Prepared>& prepared() const { return prepared_; }
  Epoch epoch() const { return plan_.epoch; }
  // Logits facts of the last Step, from the ranks that report.
  const std::vector<Logits>& logits() const { return logits_; }
  // Waits for a fault of `rank` in this epoch.
  absl::Status WaitForFault(int rank);

 private:
  class Listener;
  struct Sequence;
  explicit EngineCluster(const EngineClusterOptions& options);
  std::unique_ptr<Engine> MakeEngine(EngineListener& listener) const;
  absl::Status AddSlices(std::vector<Sequence>& sequences, int chunk_tokens,
                         std::vector<std::vector<SequenceSlice>>& batches);
  void TakeResults(const std::vector<StepResult>& results, std::vector<Sequence>& sequences);

  EngineClusterOptions options_;
  ParallelPlan plan_;
  std::shared_ptr<LocalFabricHub> hub_;
  std::vector<std::unique_ptr<Listener>> listeners_;
  std::vector<std::unique_ptr<Engine>> engines_;  // after the listeners: gone before them
  std::vector<Prepared> prepared_;
  std::vector<Logits> logits_;
  StepId step_;
  uint64_t requests_ = 0;
};

}  // namespace conclave
