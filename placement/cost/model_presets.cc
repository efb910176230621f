// The public models that PresetDims knows. Sources: the config.json of each model on Hugging Face;
// of the paper's models table II of arXiv 2207.00032, whose 8B and 24B rows have their layer counts
// exchanged (the totals decide), with GPT-2's vocabulary rounded up to 51,200.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "placement/cost/model_dims.h"

namespace conclave {
namespace {

struct Gqa {
  int heads, kv_heads, head_dim;
};

struct Moe {
  int experts, top_k, ffn, shared_ffn;
};

ModelDims Base(absl::string_view name, int layers, int hidden, int vocab, int context) {
  ModelDims dims;
  dims.name = std::string(name);
  dims.layers = layers;
  dims.hidden = hidden;
  dims.vocab = vocab;
  dims.context_tokens = context;
  dims.moe_layers.assign(layers, false);
  return dims;
}

ModelDims WithAttention(ModelDims dims, const Gqa& gqa) {
  dims.heads = gqa.heads;
  dims.kv_heads = gqa.kv_heads;
  dims.head_dim = gqa.head_dim;
  return dims;
}

// Experts in every layer from `first` on, every `period` layers.
ModelDims WithExperts(ModelDims dims, const Moe& moe, int first, int period) {
  dims.experts = moe.experts;
  dims.top_k = moe.top_k;
  dims.expert_ffn = moe.ffn;
  dims.shared_ffn = moe.shared_ffn;
  for (int layer = first; layer < dims.layers; layer += period) dims.moe_layers[layer] = true;
  return dims;
}

ModelDims Dense(ModelDims dims, int ffn) {
  dims.ffn = ffn;
  return dims;
}

// DeepSeek-V3's attention; Kimi-K2 has half the heads. Both are published in fp8 with a scale for
// each block of 128 x 128.
ModelDims DeepSeekLike(absl::string_view name, int heads, int vocab, const Moe& moe, int first) {
  ModelDims dims = Base(name, 61, 7168, vocab, 131072);
  dims.heads = heads;
  dims.kv_heads = heads;
  dims.head_dim = 128;
  dims.q_rank = 1536;
  dims.kv_rank = 512;
  dims.rope_dim = 64;
  dims.value_dim = 128;
  dims.ffn = 18432;
  dims.format = NumberFormat::kFp8;
  dims.expert_format = NumberFormat::kFp8;
  return WithExperts(std::move(dims), moe, first, 1);
}

// Top-1 of 128 experts in every other layer, plain FFNs of 4 x hidden, full attention.
ModelDims Paper(absl::string_view name, int layers, int hidden, int heads) {
  ModelDims dims = Base(name, layers, hidden, 51200, 2048);
  dims = WithAttention(std::move(dims), {heads, heads, hidden / heads});
  dims.ffn_matrices = 2;
  dims.tied_embeddings = true;
  return WithExperts(Dense(std::move(dims), 4 * hidden), {128, 1, 4 * hidden, 0}, 1, 2);
}

ModelDims Llama(absl::string_view name, int layers, int hidden, int heads, int ffn) {
  ModelDims dims = Base(name, layers, hidden, 128256, 131072);
  return Dense(WithAttention(std::move(dims), {heads, 8, 128}), ffn);
}

std::vector<ModelDims> AllPresets() {
  std::vector<ModelDims> all;
  all.push_back(DeepSeekLike("kimi-k2", 64, 163840, {384, 8, 2048, 2048}, 1));
  all.push_back(DeepSeekLike("deepseek-v3", 128, 129280, {256, 8, 2048, 2048}, 3));
  all.push_back(
      WithExperts(WithAttention(Base("qwen3-30b-a3b", 48, 2048, 151936, 40960), {32, 4, 128}),
                  {128, 8, 768, 0}, 0, 1));
  all.push_back(
      WithExperts(WithAttention(Base("qwen3-235b-a22b", 94, 4096, 151936, 40960), {64, 4, 128}),
                  {128, 8, 1536, 0}, 0, 1));
  all.push_back(
      WithExperts(WithAttention(Base("olmoe-1b-7b", 16, 2048, 50304, 4096), {16, 16, 128}),
                  {64, 8, 1024, 0}, 0, 1));
  all.push_back(
      WithExperts(WithAttention(Base("mixtral-8x7b", 32, 4096, 32000, 32768), {32, 8, 128}),
                  {8, 2, 14336, 0}, 0, 1));
  all.push_back(Llama("llama-3.1-8b", 32, 4096, 32, 14336));
  all.push_back(Llama("llama-3.1-70b", 80, 8192, 64, 28672));
  all.push_back(Llama("llama-3.1-405b", 126, 16384, 128, 53248));
  all.push_back(Paper("paper-52b", 24, 2048, 16));
  all.push_back(Paper("paper-107b", 16, 3584, 28));
  all.push_back(Paper("paper-349b", 40, 4096, 32));
  all.push_back(Paper("paper-1t", 30, 8192, 64));
  all.push_back(Paper("paper-2t", 58, 8192, 64));
  return all;
}

}  // namespace

absl::StatusOr<ModelDims> PresetDims(absl::string_view name) {
  for (ModelDims& dims : AllPresets()) {
    if (dims.name == name) return dims;
  }
  return absl::InvalidArgumentError(absl::StrCat(
      "model '", name, "' is no preset; the presets are ", absl::StrJoin(PresetDimsNames(), ", "),
      "; or give a folder with a config.json"));
}

std::vector<std::string> PresetDimsNames() {
  std::vector<std::string> names;
  for (const ModelDims& dims : AllPresets()) names.push_back(dims.name);
  return names;
}

}  // namespace conclave
