// The names and shapes that Hugging Face checkpoints of each architecture give their tensors. Pure;
// any thread. Source: transformers' state dicts (model_type of ModelShape::architecture).
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "comm/types/model_shape.h"

namespace conclave {

inline constexpr const char* kEmbeddingTensor = "model.embed_tokens.weight";  // [vocab, hidden]
inline constexpr const char* kHeadTensor = "lm_head.weight";  // [vocab, hidden]; none when tied
inline constexpr const char* kFinalNormTensor = "model.norm.weight";  // [hidden]

// Tensors that a layer has once.
enum class LayerTensor : uint8_t {
  kInputNorm,  // [hidden]
  kFfnNorm,    // [hidden]
  kQuery,      // [heads * head_dim, hidden]
  kKey,        // [kv_heads * head_dim, hidden]
  kValue,      // [kv_heads * head_dim, hidden]
  kOutput,     // [hidden, heads * head_dim]
  kQueryNorm,  // [head_dim], or the width of the queries
  kKeyNorm,    // [head_dim], or the width of the keys
  kRouter,     // [experts, hidden]
};

// The three matrices of a SwiGLU feed-forward: of an expert, or of a dense layer.
enum class FfnTensor : uint8_t {
  kGate,  // [ffn, hidden]
  kUp,    // [ffn, hidden]
  kDown,  // [hidden, ffn]
};

struct NamedTensor {
  std::string name;
  std::vector<int64_t> dims;

  bool operator==(const NamedTensor&) const = default;
};

NamedTensor TensorOfLayer(const ModelShape& shape, LayerTensor tensor, int layer);
NamedTensor TensorOfExpert(const ModelShape& shape, FfnTensor tensor, int layer, int expert);
NamedTensor TensorOfDenseFfn(const ModelShape& shape, FfnTensor tensor, int layer);

// Every tensor of the model, each once.
std::vector<NamedTensor> AllTensors(const ModelShape& shape);

}  // namespace conclave
