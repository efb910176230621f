#include <iterator>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "boost/json.hpp"
#include "coordinator/model_config/model_config.h"

namespace conclave {
namespace {

ModelShape Olmoe1b7b() {
  ModelShape shape;
  shape.architecture = Architecture::kOlmoe;
  shape.layers = 16;
  shape.hidden = 2048;
  shape.heads = 16;
  shape.kv_heads = 16;
  shape.head_dim = 128;
  shape.ffn = 1024;
  shape.vocab = 50304;
  shape.context_tokens = 4096;
  shape.norm_epsilon = 1e-5f;
  shape.qk_norm = QkNorm::kFullWidth;
  shape.moe = {.experts = 64, .top_k = 8, .ffn = 1024, .normalize_top_k = false};
  shape.eos_token_ids = {50279};
  return shape;
}

ModelShape Qwen330bA3b() {
  ModelShape shape;
  shape.architecture = Architecture::kQwen3Moe;
  shape.layers = 48;
  shape.hidden = 2048;
  shape.heads = 32;
  shape.kv_heads = 4;
  shape.head_dim = 128;
  shape.ffn = 6144;
  shape.vocab = 151936;
  shape.context_tokens = 40960;
  shape.norm_epsilon = 1e-6f;
  shape.qk_norm = QkNorm::kPerHead;
  shape.rope.theta = 1e6;
  shape.moe = {.experts = 128, .top_k = 8, .ffn = 768, .normalize_top_k = true};
  shape.eos_token_ids = {151643, 151645};
  return shape;
}

ModelShape Mixtral8x7b() {
  ModelShape shape;
  shape.architecture = Architecture::kMixtral;
  shape.layers = 32;
  shape.hidden = 4096;
  shape.heads = 32;
  shape.kv_heads = 8;
  shape.head_dim = 128;
  shape.ffn = 14336;
  shape.vocab = 32000;
  shape.context_tokens = 32768;
  shape.norm_epsilon = 1e-5f;
  shape.rope.theta = 1e6;
  shape.moe = {.experts = 8, .top_k = 2, .ffn = 14336, .normalize_top_k = true};
  shape.eos_token_ids = {2};
  return shape;
}

struct Preset {
  const char* name;
  ModelShape (*shape)();
};
constexpr Preset kPresets[] = {
    {"mixtral-8x7b", Mixtral8x7b}, {"olmoe-1b-7b", Olmoe1b7b}, {"qwen3-30b-a3b", Qwen330bA3b}};

boost::json::object RopeJson(const RopeShape& rope) {
  boost::json::object json = {{"rope_theta", rope.theta}, {"rope_type", "default"}};
  if (rope.kind == RopeShape::Kind::kLlama3) {
    json["rope_type"] = "llama3";
    json["factor"] = rope.factor;
    json["low_freq_factor"] = rope.low_freq_factor;
    json["high_freq_factor"] = rope.high_freq_factor;
    json["original_max_position_embeddings"] = rope.original_context_tokens;
  }
  return json;
}

boost::json::array IntArray(const std::vector<int>& values) {
  return boost::json::array(values.begin(), values.end());
}

}  // namespace

std::vector<std::string> PresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

absl::StatusOr<ModelShape> PresetShape(absl::string_view name) {
  const std::string lower = absl::AsciiStrToLower(name);
  for (const Preset& preset : kPresets) {
    if (lower != preset.name) continue;
    ModelShape shape = preset.shape();
    shape.name = preset.name;
    return shape;
  }
  return absl::InvalidArgumentError(absl::StrCat("model preset '", name, "' is not known; use ",
                                                 absl::StrJoin(PresetNames(), ", ")));
}

std::string WriteModelConfig(const ModelShape& shape) {
  const absl::string_view type = ArchitectureName(shape.architecture);
  const absl::string_view dtype = DtypeName(shape.weight_dtype);
  boost::json::object json = {
      {"model_type", boost::json::string(type.data(), type.size())},
      {"dtype", boost::json::string(dtype.data(), dtype.size())},
      {"hidden_act", "silu"},
      {"num_hidden_layers", shape.layers},
      {"hidden_size", shape.hidden},
      {"num_attention_heads", shape.heads},
      {"num_key_value_heads", shape.kv_heads},
      {"head_dim", shape.head_dim},
      {"intermediate_size", shape.ffn},
      {"vocab_size", shape.vocab},
      {"max_position_embeddings", shape.context_tokens},
      {"rms_norm_eps", static_cast<double>(shape.norm_epsilon)},
      {"tie_word_embeddings", shape.tied_embeddings},
      {"rope_parameters", RopeJson(shape.rope)},
      {"eos_token_id", IntArray(shape.eos_token_ids)},
  };
  if (shape.IsMoe()) {
    json["num_experts"] = shape.moe.experts;
    json["num_experts_per_tok"] = shape.moe.top_k;
    json["norm_topk_prob"] = shape.moe.normalize_top_k;
    json["moe_intermediate_size"] = shape.moe.ffn;
    json["mlp_only_layers"] = IntArray(shape.dense_layers);
  }
  return boost::json::serialize(json);
}

}  // namespace conclave
