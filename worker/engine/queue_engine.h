// QueueEngine: the Engine of a worker around a device's EngineBackend. One thread of its own loads
// weights and runs steps in the order of the calls; the calls only queue, so a worker actor never
// blocks. Abort and a newer Prepare cancel what runs (a load, a collective) at once, from the
// caller's thread. Steps are submitted to the device while the one before still runs. The listener
// is called on the engine's thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "comm/fabric/fabric.h"
#include "worker/engine/engine.h"
#include "worker/engine/engine_backend.h"

namespace conclave {

// Makes the endpoint of a rank of an assignment, not yet connected.
using FabricEndpointFactory =
    std::function<absl::StatusOr<std::unique_ptr<FabricEndpoint>>(const Assign& assign)>;

struct QueueEngineOptions {
  // Called once, on the engine's thread; `progress` grows with whatever the backend gets done.
  std::function<std::unique_ptr<EngineBackend>(std::atomic<uint64_t>& progress)> make_backend;
  FabricEndpointFactory make_endpoint;
};

// `listener` outlives the engine. Destruction cancels what runs and waits for the thread.
std::unique_ptr<Engine> CreateQueueEngine(QueueEngineOptions options, EngineListener& listener);

}  // namespace conclave
