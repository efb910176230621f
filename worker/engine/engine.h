// Engine: the seam between a worker's control (worker_actor, which never blocks) and its compute
// (which does). Calls return at once and are carried out in order; outcomes come to the
// EngineListener, on a thread of the engine's choosing. The real one is cpu_engine (a thread that
// loads weights and runs the model); fake_engine answers by a hash, for simulations.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "comm/types/worker_facts.h"

namespace conclave {

// What an engine reports; the worker actor turns each into the fact of the same name.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  virtual void OnPrepared(Epoch epoch, Prepared prepared) = 0;
  virtual void OnConnected(Epoch epoch) = 0;
  virtual void OnLogits(Epoch epoch, Logits logits) = 0;
  virtual void OnStepDone(Epoch epoch, StepResult result) = 0;
  // A Prepare, Connect or Step of `epoch` failed; the engine waits for Abort or a new Prepare.
  virtual void OnFault(Epoch epoch, StepId step, absl::Status status) = 0;
};

class Engine {
 public:
  virtual ~Engine() = default;

  // Drops an older epoch, loads the slices of `assign` (what it already holds is kept), makes the
  // fabric endpoint.
  virtual void Prepare(Epoch epoch, const Assign& assign) = 0;
  // Connects to the peers of a prepared epoch.
  virtual void Connect(Epoch epoch, const Commit& commit) = 0;
  // Runs a step; steps of an epoch run in the order of the calls. At most kStepsQueuedMax wait.
  virtual void RunStep(const StepPlan& plan) = 0;
  // Cancels what runs or waits for an epoch <= `epoch`; its outcomes may still come and are dropped
  // by the epoch.
  virtual void Abort(Epoch epoch, const std::string& reason) = 0;

  // Grows whenever the engine advances: a layer done, a weight read. Thread-safe.
  virtual uint64_t progress() const = 0;
};

inline constexpr int kStepsQueuedMax = 8;

}  // namespace conclave
