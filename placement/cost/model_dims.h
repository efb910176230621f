// ModelDims: the sizes of a model that decide its cost, for planning only: also of models that the
// runtime does not run yet (MLA, shared experts, the paper's GPT models). Made from a ModelShape,
// from a preset, or from a config.json's text. A value; any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "comm/types/model_shape.h"
#include "placement/hardware/hardware_profile.h"

namespace conclave {

struct ModelDims {
  std::string name;
  int layers = 0;
  int hidden = 0;
  int vocab = 0;
  int context_tokens = 0;
  bool tied_embeddings = false;

  int heads = 0;
  int kv_heads = 0;
  int head_dim = 0;
  // Multi-head latent attention (DeepSeek-V2): kv_rank > 0. The cache then holds kv_rank + rope_dim
  // numbers a token, replicated over tp.
  int q_rank = 0;  // 0: one query projection
  int kv_rank = 0;
  int rope_dim = 0;   // of the part of a head that is rotated
  int value_dim = 0;  // of a head; head_dim is its not rotated part

  int ffn = 0;           // of a dense FFN
  int ffn_matrices = 3;  // gate, up, down; 2: plain
  int experts = 0;       // 0: dense
  int top_k = 0;
  int expert_ffn = 0;
  int shared_ffn = 0;            // total width of the shared experts, 0: none
  std::vector<bool> moe_layers;  // [layers] true where a layer has experts

  NumberFormat format = NumberFormat::kBf16;         // of everything but the experts
  NumberFormat expert_format = NumberFormat::kBf16;  // of routed and shared experts
  NumberFormat activation = NumberFormat::kBf16;     // of activations that are exchanged
  NumberFormat kv_format = NumberFormat::kBf16;

  bool operator==(const ModelDims&) const = default;

  bool IsMoe() const { return experts > 0; }
  int MoeLayers() const;
  // Weights (norms left out) of one layer's attention; one expert; the shared experts; a dense FFN;
  // the router; embedding and head.
  double AttentionWeights() const;
  double ExpertWeights() const;
  double SharedWeights() const;
  double DenseFfnWeights() const;
  double RouterWeights() const;
  double VocabularyWeights() const;  // one table of vocab x hidden
  double TotalWeights() const;
  // Bytes of the KV cache of one token in one layer, on one rank of a tp group.
  double KvBytesPerTokenLayer(int tp) const;
};

ModelDims DimsOf(const ModelShape& shape);

// kimi-k2, deepseek-v3, qwen3-30b-a3b, qwen3-235b-a22b, olmoe-1b-7b, mixtral-8x7b, llama-3.1-8b,
// llama-3.1-70b, llama-3.1-405b, paper-52b, paper-107b, paper-349b, paper-1t, paper-2t
// (arXiv 2207.00032, table II, with the two layer counts of its 8B and 24B rows put right).
absl::StatusOr<ModelDims> PresetDims(absl::string_view name);
std::vector<std::string> PresetDimsNames();

}  // namespace conclave
