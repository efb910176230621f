// FastScratch: the device memory of a step in bfloat16: activations, routing tables, logits. Sized
// for the largest batch seen; growing loses the contents and waits for the device. Owned by
// FastLayers; engine's thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_memory.h"
#include "comm/types/model_shape.h"
#include "worker/weights/device_weights.h"

namespace conclave {

// Most of what a step may hold at once.
struct ScratchSize {
  int32_t tokens = 0;
  int32_t rows = 0;   // of the head
  int32_t parts = 0;  // pieces of the step

  bool Holds(const ScratchSize& other) const {
    return tokens >= other.tokens && rows >= other.rows && parts >= other.parts;
  }
};

// Widths of a model's activations, all padded as the kernels want them.
struct ScratchWidths {
  explicit ScratchWidths(const ModelShape& shape, const DeviceWeights& weights);
  int64_t hidden = 0;
  int64_t hidden_padded = 0;  // to 16: rows of small products
  int64_t qkv = 0;            // (heads + 2 kv_heads) * head_dim, to 16
  int64_t attention = 0;      // heads * head_dim
  int64_t heads = 0;
  int64_t ffn = 0;    // widest expert or dense FFN, to 8
  int64_t vocab = 0;  // to 16
  int64_t top_k = 1;
  int64_t experts = 1;  // to 16
  int64_t slots = 1;    // of a layer
  int64_t expert_layers = 0;
};

// Splits of K, and of the context, that small batches may use.
inline constexpr int kScratchSplitsMax = 16;
inline constexpr int kContextSplitsMax = 64;

class FastScratch {
 public:
  explicit FastScratch(const ScratchWidths& widths) : widths_(widths) {}

  const ScratchWidths& widths() const { return widths_; }
  absl::Status Reserve(const ScratchSize& size);
  // Grows when memory has moved: what a graph captured before is then stale.
  int generation() const { return generation_; }

  float* residual(int which) const { return residual_[which].as<float>(); }  // [tokens, hidden]
  void* normed() const { return normed_.data(); }            // bf16 [tokens, hidden]
  float* partials() const { return partials_.as<float>(); }  // [splits][tokens][widest]
  void* qkv() const { return qkv_.data(); }                  // bf16 [tokens, qkv]
  void* attention() const { return attention_.data(); }      // bf16 [tokens, attention]
  float* split_o() const { return split_o_.as<float>(); }    // [splits][tokens][attention]
  float* split_m() const { return split_m_.as<float>(); }    // [splits][tokens][heads]
  float* split_l() const { return split_l_.as<float>(); }
  float* router() const { return router_.as<float>(); }        // [tokens, experts]
  int32_t* experts() const { return experts_.as<int32_t>(); }  // [tokens, top_k]
  float* gate_weights() const { return gate_weights_.as<float>(); }
  int32_t* order() const { return order_.as<int32_t>(); }  // [entries]
  int32_t* row_of_entry() const { return row_of_entry_.as<int32_t>(); }
  int32_t* active() const { return active_.as<int32_t>(); }  // [1 + slots], count first
  void* permuted() const { return permuted_.data(); }        // bf16 [entries, hidden]
  void* inner() const { return inner_.data(); }              // bf16 [entries, ffn]
  void* outer() const { return outer_.data(); }              // bf16 or fp32 [entries, hidden]
  float* logits() const { return logits_.as<float>(); }      // [rows, vocab]
  void* head_rows() const { return head_rows_.data(); }      // bf16 [rows, hidden]
  void* workspace() const { return workspace_.data(); }      // of the prefill gate
  int32_t* flash_counter() const { return counters_.as<int32_t>(); }     // zero between kernels
  int32_t* gate_ticket() const { return counters_.as<int32_t>() + 32; }  // zero between kernels
  void* sampler() const { return sampler_.data(); }
  int32_t sampler_rows() const { return size_.rows; }
  // The slot table of an expert layer in a piece of the step.
  int32_t* slot_first(int part, int expert_layer) const {
    return loads_.as<int32_t>() +
           (part * widths_.expert_layers + expert_layer) * (widths_.slots + 1);
  }
  const int32_t* loads() const { return loads_.as<int32_t>(); }

 private:
  ScratchWidths widths_;
  ScratchSize size_;
  int generation_ = 0;
  DeviceBuffer residual_[2], normed_, partials_, qkv_, attention_, split_o_, split_m_, split_l_,
      router_, experts_, gate_weights_, order_, row_of_entry_, active_, permuted_, inner_, outer_,
      logits_, head_rows_, workspace_, counters_, sampler_, loads_;
};

}  // namespace conclave
