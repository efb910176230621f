// Model: one rank's part of a model, run one step at a time: embedding or the stage before, the
// layers of the stage, the stage after or the head. Owns the step's scratch and the exchange of its
// experts; borrows weights, cache, fabric and pool. Made at Connect, gone with the epoch. One
// thread.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/moe_exchange.h"
#include "comm/types/worker_facts.h"
#include "worker/kv/kv_pool.h"
#include "worker/model/head.h"
#include "worker/model/model_table.h"
#include "worker/model/step_context.h"
#include "worker/weights/model_weights.h"

namespace conclave {

// All outlive the Model.
struct ModelParts {
  const Assign& assign;
  const ModelWeights& weights;
  const KvPool& kv;
  Fabric& fabric;
  ComputePool& pool;
  std::atomic<uint64_t>& progress;  // grows with each layer
  absl::Duration timeout;           // of each wait for peers
  std::vector<std::string> nodes;   // by rank: equal names are one node
};

class Model {
 public:
  explicit Model(const ModelParts& parts);
  ~Model();
  Model(const Model&) = delete;
  Model& operator=(const Model&) = delete;

  // Runs a plan that has passed CheckStepPlan. All ranks of the replica run the same steps in the
  // same order. Reports logits to `sink` on tp rank 0 of the last stage. After an error the model
  // is not used again.
  absl::Status Forward(const StepPlan& plan, LogitsSink sink, StepResult& result);

 private:
  LayerState MakeLayer(int index);
  absl::Status Begin(StepContext& ctx);
  absl::Status ReceiveFromStageBefore(StepContext& ctx);
  absl::Status SendToStageAfter(StepContext& ctx);
  absl::Status End(StepContext& ctx, LogitsSink sink);

  ModelParts parts_;
  GridPosition at_;
  bool first_stage_;
  bool last_stage_;
  FabricGroup tp_;
  std::vector<float> rope_frequencies_;  // [head_dim / 2]
  LayerFunction layer_function_;
  std::vector<LayerState> layers_;
  std::unique_ptr<MoeExchange> exchange_;  // null in a dense model
  StepBatch batch_;
  StepBuffers buffers_;
  StepMeter meter_;
  SampledBefore before_;                // first stage
  std::vector<int32_t> shared_tokens_;  // [samples]
};

}  // namespace conclave
