// CpuEngine: the Engine of a worker on CPUs. One thread of its own loads weights and runs steps in
// the order of the calls; the calls only queue, so a worker actor never blocks. Abort and a newer
// Prepare cancel what runs (a load, a collective) at once, from the caller's thread. Weights stay
// across epochs as long as an assignment means the same ones. The listener is called on the
// engine's thread.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric.h"
#include "worker/engine/engine.h"

namespace conclave {

// Makes the endpoint of a rank of an assignment, not yet connected.
using FabricEndpointFactory =
    std::function<absl::StatusOr<std::unique_ptr<FabricEndpoint>>(const Assign& assign)>;

struct CpuEngineOptions {
  int threads = 1;
  int64_t memory_bytes = 0;            // budget for weights and KV; 0: unbounded
  FabricEndpointFactory make_endpoint;
  absl::Duration peer_timeout = absl::Seconds(30);  // of each wait for peers within a step
};

// `listener` outlives the engine. Destruction cancels what runs and waits for the thread.
std::unique_ptr<Engine> CreateCpuEngine(CpuEngineOptions options, EngineListener& listener);

}  // namespace conclave
