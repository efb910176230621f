// EngineBackend: what a device does for the QueueEngine: load weights, hold the cache, run steps.
// Made and used on the engine's thread only; it may block there. Implementations: cpu_engine.cc
// (a step runs when it is collected) and cuda_engine.cc (a step is launched when it is submitted,
// and the next may be launched behind it).
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "comm/fabric/fabric.h"
#include "comm/types/worker_facts.h"
#include "worker/engine/step_check.h"

namespace conclave {

class EngineBackend {
 public:
  virtual ~EngineBackend() = default;

  // Loads the slices of a checked assignment (what it already holds is kept) and makes the cache.
  // Fills all of Prepared but address and time. Returns Cancelled soon after `cancelled` is set.
  virtual absl::StatusOr<Prepared> Load(const Assign& assign,
                                        const std::atomic<bool>& cancelled) = 0;
  // Of what was loaded.
  virtual StepLimits Limits() const = 0;

  // Makes ready for steps over a connected fabric, which outlives them; `assign` is that of Load
  // and outlives them too. nodes: by rank, as in Commit.
  virtual absl::Status Connect(const Assign& assign, const std::vector<std::string>& nodes,
                               Fabric& fabric) = 0;
  // Gives up the steps in flight and the fabric; weights stay.
  virtual void Disconnect() = 0;

  // Begins a step that has passed CheckStepPlan, in the order of the calls.
  virtual absl::Status Submit(const StepPlan& plan) = 0;
  // Whether Collect would return without a wait for the device.
  virtual bool Done() = 0;
  // Ends the oldest submitted step. After an error no more steps come before a Connect.
  virtual absl::Status Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) = 0;
};

}  // namespace conclave
