// ModelWeights: the slices of a model that one rank of a plan holds, in the layouts of kernels.
// Built once by LoadModelWeights, read by model/. Move-only.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/device/compute_pool.h"
#include "comm/types/worker_facts.h"
#include "kernels/expert_ffn/expert_ffn.h"
#include "kernels/gemm/packed_matrix.h"
#include "worker/weights/weight_source.h"

namespace conclave {

// Query heads are cut evenly over tp; a rank holds the kv heads that its query heads read (several
// ranks may hold the same kv head when tp > kv_heads).
struct AttentionWeights {
  std::vector<float> input_norm;  // [hidden]
  PackedMatrix
      qkv;  // [(heads + 2 * kv_heads) of this rank * head_dim, hidden]: q rows, then k, then v
  PackedMatrix output;        // [hidden, heads of this rank * head_dim], slices 8 / tp
  std::vector<float> q_norm;  // [head_dim], or [width of this rank] (full-width norm), or empty
  std::vector<float> k_norm;
  int heads = 0;  // of this rank
  int kv_heads = 0;
};

struct LayerWeights {
  int layer = 0;
  AttentionWeights attention;
  std::vector<float> ffn_norm;    // [hidden]; post_attention_layernorm
  PackedMatrix router;            // [experts, hidden]; empty in a dense layer
  std::vector<FfnWeights> slots;  // experts held, in the order of LayerExperts::UnitsOf; a dense
                                  // layer: one, its tp slice
};

struct ModelWeights {
  std::vector<LayerWeights> layers;  // of this rank's stage, ascending
  // Vocabulary rows [vocab_begin, vocab_end) of this tp rank: floor(tp * vocab / tp_size) and so
  // on.
  int64_t vocab_begin = 0;
  int64_t vocab_end = 0;
  PackedMatrix embedding;  // first stage; with tied embeddings also the head of the last stage
  PackedMatrix head;       // last stage, when not the same object as embedding
  bool head_is_embedding = false;  // last stage uses `embedding`
  std::vector<float> final_norm;   // last stage

  const PackedMatrix& lm_head() const { return head_is_embedding ? embedding : head; }
  int64_t bytes() const;
};

struct LoadedModel {
  ModelWeights weights;
  int64_t checkpoint_bytes_read = 0;
  int64_t checkpoint_bytes_share = 0;  // of the slices, as the shapes say
};

// Reads rank `rank`'s slices of `plan`. InvalidArgument names the tensor, what was found and
// expected. `progress` grows with each tensor; `cancelled` true makes it return Cancelled soon.
absl::StatusOr<LoadedModel> LoadModelWeights(const Assign& assign, WeightSource& source,
                                             ComputePool& pool, std::atomic<uint64_t>& progress,
                                             const std::atomic<bool>& cancelled);

// The source an assignment names: a safetensors folder, or dummy weights of the shape.
absl::StatusOr<std::unique_ptr<WeightSource>> OpenWeightSource(const ModelSource& source,
                                                               const ModelShape& shape);

}  // namespace conclave
