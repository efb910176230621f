// CpuEngine: the Engine of a worker on CPUs: a QueueEngine whose backend runs the model on a pool
// of threads, with the CPU's kernels. Weights stay across epochs as long as an assignment means the
// same ones.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/time/time.h"
#include "worker/engine/engine.h"
#include "worker/engine/queue_engine.h"

namespace conclave {

struct CpuEngineOptions {
  int threads = 1;
  int64_t memory_bytes = 0;  // budget for weights and KV; 0: unbounded
  FabricEndpointFactory make_endpoint;
  absl::Duration peer_timeout = absl::Seconds(30);  // of each wait for peers within a step
};

// `listener` outlives the engine. Destruction cancels what runs and waits for the thread.
std::unique_ptr<Engine> CreateCpuEngine(CpuEngineOptions options, EngineListener& listener);

}  // namespace conclave
