// CudaEngine: the Engine of a worker on one GPU: a QueueEngine whose backend holds weights and
// cache in device memory. Alone in its replica and not deterministic it computes in bfloat16 with
// the fused kernels and launches a step while the one before runs; otherwise with the exact
// kernels, whose bits are the CPU's, exchanging with its peers through pinned host memory. Several
// engines may share a GPU, each within its budget.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "worker/engine/engine.h"
#include "worker/engine/queue_engine.h"
#include "worker/model/cuda/fast_tuning.h"
#include "worker/model/cuda/op_span.h"

namespace conclave {

struct CudaEngineOptions {
  int device = 0;
  int threads = 1;           // for reading weights and for sampling on the host
  int64_t memory_bytes = 0;  // budget for weights, cache and scratch; 0: what is free at load
  FabricEndpointFactory make_endpoint;
  absl::Duration peer_timeout = absl::Seconds(30);  // of each wait for peers within a step
  TraceSink trace;  // when given, gets the times of all operators of every step; slower
  FastTuning tuning = {};
};

// `listener` outlives the engine. Destruction cancels what runs and waits for the thread. A binary
// built without CUDA makes an engine whose Prepare fails and says so.
std::unique_ptr<Engine> CreateCudaEngine(CudaEngineOptions options, EngineListener& listener);

}  // namespace conclave
