// ModelShape: what a config.json says about a model, in one spelling. Read by the planner (sizes),
// the worker (which tensors, which blocks) and the coordinator (vocabulary, context). A value; any
// thread may use it. Source of the fields: Hugging Face transformers' configs of each architecture.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "comm/base/dtype.h"

namespace conclave {

enum class Architecture : uint8_t {
  kLlama = 0,
  kQwen3 = 1,
  kMixtral = 2,
  kOlmoe = 3,
  kQwen3Moe = 4
};

// "llama", "qwen3", "mixtral", "olmoe", "qwen3_moe": the model_type of config.json.
absl::string_view ArchitectureName(Architecture architecture);

// RMS norm of queries and keys: none; over each head; over the whole projected width (OLMoE).
enum class QkNorm : uint8_t { kNone = 0, kPerHead = 1, kFullWidth = 2 };

// Rotary position embedding; the llama3 kind rescales low frequencies (Llama 3.1).
struct RopeShape {
  enum class Kind : uint8_t { kDefault = 0, kLlama3 = 1 };
  Kind kind = Kind::kDefault;
  double theta = 10000.0;
  double factor = 1.0;  // llama3 only, as the three below
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context_tokens = 0;

  bool operator==(const RopeShape&) const = default;
};

struct MoeShape {
  int experts = 0;              // 0: a dense model
  int top_k = 0;                // experts per token
  int ffn = 0;                  // intermediate size of one expert
  bool normalize_top_k = true;  // scale the top-k probabilities to sum to 1

  bool operator==(const MoeShape&) const = default;
};

struct ModelShape {
  Architecture architecture = Architecture::kLlama;
  std::string name;  // as users name the model; not part of the weights
  int layers = 0;
  int hidden = 0;
  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  int ffn = 0;  // intermediate size of a dense FFN
  int vocab = 0;
  int context_tokens = 0;  // max_position_embeddings
  float norm_epsilon = 1e-6f;
  bool tied_embeddings = false;  // lm_head is the embedding
  QkNorm qk_norm = QkNorm::kNone;
  RopeShape rope;
  MoeShape moe;
  std::vector<int> dense_layers;  // layers of a MoE model whose FFN is dense, ascending
  Dtype weight_dtype = Dtype::kBf16;
  std::vector<int> eos_token_ids;

  bool operator==(const ModelShape&) const = default;

  bool IsMoe() const { return moe.experts > 0; }
  // True when layer `layer` holds experts.
  bool IsMoeLayer(int layer) const;

  // Parameter counts, norms included. Sources: the tensor shapes of each architecture's checkpoint.
  int64_t AttentionParameters() const;  // of one layer, with its two norms and qk norms
  int64_t ExpertParameters() const;     // of one expert of one layer
  int64_t LayerParameters(int layer) const;
  int64_t TotalParameters() const;
};

}  // namespace conclave
