// DeviceModel: one rank's part of a model on a GPU, run one step at a time: what the backend of a
// GPU drives. fast_model.h computes in bfloat16 with fused kernels, alone in its replica;
// exact_model.h gives the CPU's bits, in any grid. Made at Connect, gone with the epoch; engine's
// thread, its device current.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/device/compute_pool.h"
#include "comm/fabric/fabric.h"
#include "comm/types/worker_facts.h"
#include "worker/kv/device_kv_pool.h"
#include "worker/model/cuda/fast_tuning.h"
#include "worker/model/cuda/op_span.h"
#include "worker/weights/device_weights.h"

namespace conclave {

// All outlive the model.
struct DeviceModelParts {
  const Assign& assign;
  const DeviceWeights& weights;
  const DeviceKvPool& kv;
  Fabric& fabric;
  ComputePool& pool;
  std::atomic<uint64_t>& progress;   // grows with layers or steps done
  absl::Duration timeout;            // of each wait for peers
  const TraceSink* trace = nullptr;  // times every operator of every step; slower
  FastTuning tuning = {};            // of the fused path
  std::vector<std::string> nodes;    // by rank: equal names are one node
};

class DeviceModel {
 public:
  virtual ~DeviceModel() = default;

  // As EngineBackend: plans that have passed CheckStepPlan, in order; at most two in flight.
  virtual absl::Status Submit(const StepPlan& plan) = 0;
  virtual bool Done() = 0;
  virtual absl::Status Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) = 0;
};

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateExactModel(const DeviceModelParts& parts);

// Whether the fused kernels can run an assignment: one worker, not deterministic, a bfloat16 cache.
bool FastModelRuns(const Assign& assign);
absl::StatusOr<std::unique_ptr<DeviceModel>> CreateFastModel(const DeviceModelParts& parts);

}  // namespace conclave
