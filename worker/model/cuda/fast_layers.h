// FastLayers: enqueues the kernels of a step in bfloat16: embedding, layers, head and sampler, over
// scratch memory that it owns. Small batches (up to kSbiTokensMax tokens) run the weight-streaming
// kernels, larger ones the tensor-core kernels; both leave what a block adds to the residual
// pending, for the next norm to add in its own pass. It enqueues and never waits, so a graph can
// capture it, once Reserve has made the memory. Owned by the FastModel; engine's thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/device/cuda_memory.h"
#include "comm/types/model_shape.h"
#include "worker/kv/device_kv_pool.h"
#include "worker/model/cuda/fast_scratch.h"
#include "worker/model/cuda/fast_tuning.h"
#include "worker/model/cuda/op_trace.h"
#include "worker/model/cuda/step_inputs.h"
#include "worker/model/model_table.h"
#include "worker/weights/device_weights.h"

namespace conclave {

// Whether the fused kernels know all that a shape asks for.
bool FastLayersRun(const ModelShape& shape);

// A batch as kernels are launched for it; counts include padding.
struct FastBatch {
  StepInputsView inputs;
  int32_t tokens = 0;
  int32_t sequences = 0;
  int32_t rows = 0;            // of the head
  int32_t context_tokens = 0;  // upper bound of every sequence's
  bool decodes_only = false;   // one token in each sequence
  int32_t part = 0;            // piece of the step, for the expert loads
  int32_t first_row = 0;       // rows of the pieces before
  bool all_greedy = false;     // no row draws
};

struct FastLayersParts {
  const ModelShape& shape;
  const DeviceWeights& weights;
  const DeviceKvPool& kv;
  int32_t sample_slots = 0;
  int32_t step_rows = 0;  // most rows of a step
  OpTrace& trace;
  CudaStream stream;
  FastTuning tuning = {};
};

class FastLayers {
 public:
  static absl::StatusOr<std::unique_ptr<FastLayers>> Create(const FastLayersParts& parts);
  ~FastLayers();

  // Tokens, and rows of the head, that are taken at once.
  int32_t tokens_max() const;
  int32_t rows_max() const;
  bool TakesAtOnce(int32_t tokens) const { return tokens <= tokens_max(); }

  // Memory for such a batch. May wait for the device.
  absl::Status Reserve(const ScratchSize& size);
  // Grows when memory has moved: graphs captured before are then stale.
  int generation() const;
  // Embedding and layers; the normed hidden rows stay for Head.
  absl::Status Body(const FastBatch& batch);
  // Logits and tokens of rows [first, first + count) of the batch.
  absl::Status Head(const FastBatch& batch, int32_t first, int32_t count);

  // Device memory: logits of row `i` of the last Head; tokens by slot; log-probabilities by row;
  // slot tables [parts][expert layers][slots + 1] of the experts.
  const float* LogitsRow(int32_t i) const;
  const int32_t* sampled_tokens() const;
  const float* sampled_logprobs() const;
  const int32_t* loads() const;
  int64_t loads_bytes(int parts) const;
  // A batch whose layers one kernel runs: it notes no slot tables, but the experts of its token,
  // [expert layers][top_k] in device memory.
  bool UsesOneToken(const FastBatch& batch) const;
  const int32_t* chosen() const;
  int64_t chosen_bytes() const;
  // Weights that every piece of a step reads, experts left out.
  int64_t always_read_bytes() const;

 private:
  class Impl;
  explicit FastLayers(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave
