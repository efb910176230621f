// What the blocks of a model work with during one step: the shape, the batch, scratch, the fabric,
// a meter. Blocks are free functions that take a StepContext and a LayerState; they keep no state
// of their own. Engine's thread.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "comm/device/compute_pool.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/moe_exchange.h"
#include "comm/types/expert_map.h"
#include "comm/types/model_shape.h"
#include "comm/types/step_result.h"
#include "kernels/attention/paged_attention.h"
#include "worker/model/step_batch.h"
#include "worker/model/step_buffers.h"
#include "worker/weights/model_weights.h"

namespace conclave {

// Where the time of a step goes: it flows to the phase entered last.
enum class Phase : uint8_t { kOther, kAttention, kExperts, kExchange, kCollective, kHead };

class StepMeter {
 public:
  void Start();
  // Returns the phase before, so that a helper can go back to it.
  Phase Enter(Phase phase);
  void AddWeightBytes(int64_t bytes) { weight_bytes_ += bytes; }
  // Ends the step: fills timings and weight_bytes_read.
  void Finish(StepResult& result);

 private:
  using Clock = std::chrono::steady_clock;
  Clock::time_point started_;
  Clock::time_point entered_;
  Phase phase_ = Phase::kOther;
  std::array<int64_t, 6> nanos_ = {};
  int64_t weight_bytes_ = 0;
};

// One layer of this rank: weights and cache.
struct LayerState {
  const LayerWeights* weights = nullptr;
  KvLayer cache;
  std::vector<const FfnWeights*> slots;  // of weights->slots
  std::vector<ExpertUnit> units;         // [slots] what each slot is; empty in a dense layer
};

struct StepContext {
  const ModelShape& shape;
  absl::Span<const float> rope_frequencies;  // [head_dim / 2]
  const FabricGroup& tp;                     // the ranks of this dp group in this stage
  Fabric& fabric;
  MoeExchange* exchange;  // null in a dense model
  ComputePool& pool;
  const StepBatch& batch;
  StepBuffers& buffers;
  StepMeter& meter;
  StepResult& result;
  absl::Duration timeout;  // of each wait for peers
  // buffers.delta is still to be added to buffers.hidden: the next norm does it in its pass.
  bool delta_pending = false;

  int64_t tokens() const { return batch.tokens(); }
  Rows Hidden() { return buffers.hidden.Take(tokens(), shape.hidden); }
  Rows Normed() { return buffers.normed.Take(tokens(), shape.hidden); }
  Rows Delta() { return buffers.delta.Take(tokens(), shape.hidden); }
  FabricOp Op(const char* name, int layer) const { return {name, layer, timeout}; }
};

// Normed() := rms_norm(Hidden()), a pending delta added to Hidden() first.
void NormResidual(StepContext& ctx, absl::Span<const float> weight);
// Adds a pending delta to Hidden().
void SettleResidual(StepContext& ctx);
// data := its sum over the tp group. `data` is dense (stride == cols).
absl::Status SumOverTp(StepContext& ctx, Rows data, const char* name, int layer);
// y := x W^T, counted.
void Project(StepContext& ctx, ConstRows x, const PackedMatrix& weights, Rows y);

}  // namespace conclave
