#include "coordinator/model_config/model_config.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"
#include "comm/base/status.h"
#include "coordinator/model_config/json_fields.h"

namespace conclave {
namespace {

constexpr size_t kConfigBytesMax = 4 << 20;
constexpr int64_t kIntMax = std::numeric_limits<int32_t>::max();
constexpr IntRange kPositive = {1, kIntMax};
constexpr int64_t kLayersMax = 100000;
// More parameters than any byte count of them could be held in an int64.
constexpr __int128 kParametersMax = static_cast<__int128>(1) << 60;

constexpr Architecture kArchitectures[] = {Architecture::kLlama, Architecture::kQwen3,
                                           Architecture::kMixtral, Architecture::kOlmoe,
                                           Architecture::kQwen3Moe};

// What transformers' config classes assume when a key is absent.
struct Defaults {
  double norm_epsilon = 1e-6;
  double rope_theta = 10000.0;
  int head_dim = 0;  // 0: hidden / heads
};

Defaults DefaultsOf(Architecture architecture) {
  switch (architecture) {
    case Architecture::kMixtral:
      return {1e-5, 1e6, 0};
    case Architecture::kOlmoe:
      return {1e-5, 10000.0, 0};
    case Architecture::kQwen3:
      return {1e-6, 10000.0, 128};
    case Architecture::kLlama:
    case Architecture::kQwen3Moe:
      return {};
  }
  return {};
}

absl::Status Unsupported(const JsonFields& fields, absl::string_view key,
                         absl::string_view remedy) {
  return absl::UnimplementedError(fields.Refuse(key, remedy).message());
}

absl::StatusOr<Architecture> ReadArchitecture(const JsonFields& fields) {
  ASSIGN_OR_RETURN(const std::string type, fields.String("model_type"));
  std::string known;
  for (Architecture architecture : kArchitectures) {
    if (type == ArchitectureName(architecture)) return architecture;
    absl::StrAppend(&known, known.empty() ? "" : ", ", ArchitectureName(architecture));
  }
  return fields.Refuse("model_type", absl::StrCat("known architectures are ", known));
}

// Refuses settings that would change the computation in ways the kernels do not know.
absl::Status CheckSettings(const JsonFields& fields) {
  for (absl::string_view key : {"attention_bias", "mlp_bias"}) {
    ASSIGN_OR_RETURN(const bool biased, fields.BoolOr(key, false));
    if (biased) return Unsupported(fields, key, "only projections without bias are supported");
  }
  for (absl::string_view key : {"clip_qkv", "quantization_config"}) {
    if (fields.Find(key) != nullptr) {
      return Unsupported(fields, key, "only null is supported; use a checkpoint without it");
    }
  }
  ASSIGN_OR_RETURN(const std::string activation, fields.StringOr("hidden_act", "silu"));
  if (activation != "silu" && activation != "swish") {
    return Unsupported(fields, "hidden_act", "only silu is supported");
  }
  ASSIGN_OR_RETURN(const double rotary, fields.NumberOr("partial_rotary_factor", 1.0));
  if (rotary != 1.0) return Unsupported(fields, "partial_rotary_factor", "only 1 is supported");
  ASSIGN_OR_RETURN(const int64_t shared, fields.IntOr("n_shared_experts", {0, kIntMax}, 0));
  if (shared != 0) return Unsupported(fields, "n_shared_experts", "only 0 is supported");
  return absl::OkStatus();
}

// A window only matters when it is switched on and shorter than the context.
absl::Status CheckSlidingWindow(const JsonFields& fields, const ModelShape& shape) {
  constexpr absl::string_view kRemedy =
      "sliding-window attention is not supported; use a checkpoint with full attention";
  const bool qwen =
      shape.architecture == Architecture::kQwen3 || shape.architecture == Architecture::kQwen3Moe;
  ASSIGN_OR_RETURN(const bool used, fields.BoolOr("use_sliding_window", !qwen));
  ASSIGN_OR_RETURN(const int64_t window, fields.IntOr("sliding_window", {0, kIntMax}, 0));
  ASSIGN_OR_RETURN(const int64_t full_layers,
                   fields.IntOr("max_window_layers", {0, kIntMax}, qwen ? 0 : kIntMax));
  const bool reaches = !qwen || full_layers < shape.layers;
  if (shape.architecture != Architecture::kLlama && shape.architecture != Architecture::kOlmoe &&
      used && reaches && window > 0 && window < shape.context_tokens) {
    return Unsupported(fields, "sliding_window", kRemedy);
  }
  ASSIGN_OR_RETURN(const boost::json::array* types, fields.ArrayOrNull("layer_types"));
  if (types == nullptr) return absl::OkStatus();
  for (const boost::json::value& type : *types) {
    if (!type.is_string()) return fields.Refuse("layer_types", "give a list of strings");
    if (type.get_string() != "full_attention" && (window == 0 || window < shape.context_tokens ||
                                                  type.get_string() != "sliding_attention")) {
      return Unsupported(fields, "layer_types", kRemedy);
    }
  }
  return absl::OkStatus();
}

absl::Status ReadLlama3Rope(const JsonFields& rope, RopeShape* out) {
  out->kind = RopeShape::Kind::kLlama3;
  ASSIGN_OR_RETURN(out->factor, rope.Number("factor"));
  ASSIGN_OR_RETURN(out->low_freq_factor, rope.Number("low_freq_factor"));
  ASSIGN_OR_RETURN(out->high_freq_factor, rope.Number("high_freq_factor"));
  ASSIGN_OR_RETURN(out->original_context_tokens,
                   rope.Int("original_max_position_embeddings", kPositive));
  if (out->factor < 1) return rope.Refuse("factor", "give a number of at least 1");
  if (out->low_freq_factor <= 0) return rope.Refuse("low_freq_factor", "give a positive number");
  if (out->high_freq_factor <= out->low_freq_factor) {
    return rope.Refuse("high_freq_factor", "give a number above low_freq_factor");
  }
  return absl::OkStatus();
}

// transformers 5: rope_parameters{rope_theta, rope_type, ...}; 4: rope_theta and rope_scaling{type
// | rope_type, ...}.
absl::StatusOr<RopeShape> ReadRope(const JsonFields& fields, double default_theta) {
  RopeShape rope;
  ASSIGN_OR_RETURN(rope.theta, fields.NumberOr("rope_theta", default_theta));
  ASSIGN_OR_RETURN(const boost::json::object* object, fields.ObjectOrNull("rope_parameters"));
  std::string where = "rope_parameters";
  const bool new_spelling = object != nullptr;
  if (!new_spelling) {
    where = "rope_scaling";
    ASSIGN_OR_RETURN(object, fields.ObjectOrNull("rope_scaling"));
  }
  if (object != nullptr) {
    const JsonFields inner(*object, absl::StrCat(fields.context(), ": ", where));
    ASSIGN_OR_RETURN(rope.theta, inner.NumberOr("rope_theta", rope.theta));
    ASSIGN_OR_RETURN(const double partial, inner.NumberOr("partial_rotary_factor", 1.0));
    if (partial != 1.0) return Unsupported(inner, "partial_rotary_factor", "only 1 is supported");
    const char* key = inner.Find("rope_type") != nullptr ? "rope_type" : "type";
    std::string type = "default";
    if (!new_spelling || inner.Find(key) != nullptr) {
      ASSIGN_OR_RETURN(type, inner.String(key));
    }
    if (type == "llama3") {
      RETURN_IF_ERROR(ReadLlama3Rope(inner, &rope));
    } else if (type != "default") {
      return Unsupported(inner, key, "known kinds are default and llama3");
    }
  }
  if (rope.theta <= 0) {
    return absl::InvalidArgumentError(absl::StrCat(fields.context(), ": key 'rope_theta' is ",
                                                   rope.theta, "; give a positive number"));
  }
  return rope;
}

// The first of `keys` that is present; two that disagree are refused.
absl::StatusOr<int64_t> IntOfAliases(const JsonFields& fields,
                                     std::initializer_list<const char*> keys, IntRange range) {
  const char* found = nullptr;
  int64_t value = 0;
  for (const char* key : keys) {
    if (fields.Find(key) == nullptr) continue;
    ASSIGN_OR_RETURN(const int64_t number, fields.Int(key, range));
    if (found != nullptr && number != value) {
      return fields.Refuse(key, absl::StrCat("it contradicts '", found, "', which is ", value));
    }
    found = key;
    value = number;
  }
  if (found == nullptr) return fields.Refuse(*keys.begin(), "give the number");
  return value;
}

// Layers without experts: mlp_only_layers, and all but every decoder_sparse_step-th.
absl::StatusOr<std::vector<int>> ReadDenseLayers(const JsonFields& fields, int layers) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> only,
                   fields.IntList("mlp_only_layers", {0, layers - 1}));
  ASSIGN_OR_RETURN(const int64_t step, fields.IntOr("decoder_sparse_step", kPositive, 1));
  std::vector<int> dense;
  for (int layer = 0; layer < layers; ++layer) {
    const bool named = std::find(only.begin(), only.end(), layer) != only.end();
    if (named || (layer + 1) % step != 0) dense.push_back(layer);
  }
  return dense;
}

absl::Status ReadMoe(const JsonFields& fields, ModelShape* shape) {
  MoeShape& moe = shape->moe;
  ASSIGN_OR_RETURN(
      moe.experts,
      IntOfAliases(fields, {"num_local_experts", "num_experts", "n_routed_experts"}, kPositive));
  ASSIGN_OR_RETURN(moe.top_k, fields.Int("num_experts_per_tok", {1, moe.experts}));
  moe.ffn = shape->ffn;
  moe.normalize_top_k = true;
  if (shape->architecture == Architecture::kMixtral) return absl::OkStatus();
  ASSIGN_OR_RETURN(moe.normalize_top_k, fields.BoolOr("norm_topk_prob", false));
  if (shape->architecture == Architecture::kOlmoe) return absl::OkStatus();
  ASSIGN_OR_RETURN(moe.ffn, fields.Int("moe_intermediate_size", kPositive));
  ASSIGN_OR_RETURN(shape->dense_layers, ReadDenseLayers(fields, shape->layers));
  return absl::OkStatus();
}

absl::StatusOr<Dtype> ReadWeightDtype(const JsonFields& fields) {
  const char* key = fields.Find("dtype") != nullptr ? "dtype" : "torch_dtype";
  ASSIGN_OR_RETURN(const std::string name, fields.StringOr(key, "bfloat16"));
  const absl::StatusOr<Dtype> dtype = ParseDtype(absl::StripPrefix(name, "torch."));
  if (!dtype.ok() || (*dtype != Dtype::kF32 && *dtype != Dtype::kF16 && *dtype != Dtype::kBf16)) {
    return Unsupported(fields, key, "use bfloat16, float16 or float32");
  }
  return *dtype;
}

absl::Status ReadAttention(const JsonFields& fields, const Defaults& defaults, ModelShape* shape) {
  ASSIGN_OR_RETURN(shape->heads, fields.Int("num_attention_heads", kPositive));
  ASSIGN_OR_RETURN(shape->kv_heads, fields.IntOr("num_key_value_heads", kPositive, shape->heads));
  if (shape->heads % shape->kv_heads != 0) {
    return fields.Refuse("num_key_value_heads",
                         absl::StrCat("give a divisor of the ", shape->heads, " attention heads"));
  }
  if (fields.Find("head_dim") != nullptr) {
    ASSIGN_OR_RETURN(shape->head_dim, fields.Int("head_dim", kPositive));
  } else if (defaults.head_dim > 0) {
    shape->head_dim = defaults.head_dim;
  } else if (shape->hidden % shape->heads == 0) {
    shape->head_dim = shape->hidden / shape->heads;
  } else {
    return fields.Refuse("num_attention_heads", absl::StrCat("give a divisor of hidden_size, ",
                                                             shape->hidden, ", or head_dim"));
  }
  if (shape->head_dim % 2 != 0) {
    return fields.Refuse("head_dim", absl::StrCat(shape->head_dim,
                                                  " is odd; rotary position "
                                                  "embedding needs an even one"));
  }
  if (static_cast<int64_t>(shape->heads) * shape->head_dim > kIntMax) {
    return fields.Refuse("num_attention_heads",
                         absl::StrCat("times head_dim, ", shape->head_dim, ", it exceeds 2^31"));
  }
  return absl::OkStatus();
}

// Keeps every later product of sizes inside an int64.
absl::Status CheckParameterCount(const JsonFields& fields, const ModelShape& shape) {
  const __int128 hidden = shape.hidden;
  const __int128 width = static_cast<__int128>(shape.heads) * shape.head_dim;
  const __int128 expert = 3 * hidden * std::max(shape.moe.ffn, shape.ffn);
  // Each factor is below 2^31, so the sum of one layer is below 2^96.
  const __int128 layer =
      4 * hidden * width + expert * std::max(shape.moe.experts, 1) + hidden * shape.moe.experts;
  const __int128 total = layer * shape.layers + 2 * hidden * shape.vocab;
  if (layer > kParametersMax || total > kParametersMax) {
    return fields.Refuse("hidden_size", "with the other sizes it makes more than 2^60 parameters");
  }
  return absl::OkStatus();
}

absl::Status AddEosTokens(const JsonFields& fields, ModelShape* shape) {
  ASSIGN_OR_RETURN(const std::vector<int64_t> ids, fields.IntList("eos_token_id", {0, kIntMax}));
  shape->eos_token_ids.insert(shape->eos_token_ids.end(), ids.begin(), ids.end());
  std::vector<int>& all = shape->eos_token_ids;
  std::sort(all.begin(), all.end());
  all.erase(std::unique(all.begin(), all.end()), all.end());
  return absl::OkStatus();
}

absl::StatusOr<ModelShape> ReadShape(const JsonFields& fields) {
  ModelShape shape;
  ASSIGN_OR_RETURN(shape.architecture, ReadArchitecture(fields));
  RETURN_IF_ERROR(CheckSettings(fields));
  const Defaults defaults = DefaultsOf(shape.architecture);
  ASSIGN_OR_RETURN(shape.layers, fields.Int("num_hidden_layers", {1, kLayersMax}));
  ASSIGN_OR_RETURN(shape.hidden, fields.Int("hidden_size", kPositive));
  ASSIGN_OR_RETURN(shape.ffn, fields.Int("intermediate_size", kPositive));
  ASSIGN_OR_RETURN(shape.vocab, fields.Int("vocab_size", kPositive));
  ASSIGN_OR_RETURN(shape.context_tokens, fields.Int("max_position_embeddings", kPositive));
  RETURN_IF_ERROR(ReadAttention(fields, defaults, &shape));
  ASSIGN_OR_RETURN(const double epsilon, fields.NumberOr("rms_norm_eps", defaults.norm_epsilon));
  if (epsilon <= 0 || epsilon >= 1) {
    return fields.Refuse("rms_norm_eps", "give a number between 0 and 1");
  }
  shape.norm_epsilon = static_cast<float>(epsilon);
  ASSIGN_OR_RETURN(shape.tied_embeddings, fields.BoolOr("tie_word_embeddings", false));
  ASSIGN_OR_RETURN(shape.rope, ReadRope(fields, defaults.rope_theta));
  ASSIGN_OR_RETURN(shape.weight_dtype, ReadWeightDtype(fields));
  switch (shape.architecture) {
    case Architecture::kLlama:
      break;
    case Architecture::kQwen3:
      shape.qk_norm = QkNorm::kPerHead;
      break;
    case Architecture::kMixtral:
      RETURN_IF_ERROR(ReadMoe(fields, &shape));
      break;
    case Architecture::kOlmoe:
      shape.qk_norm = QkNorm::kFullWidth;
      RETURN_IF_ERROR(ReadMoe(fields, &shape));
      break;
    case Architecture::kQwen3Moe:
      shape.qk_norm = QkNorm::kPerHead;
      RETURN_IF_ERROR(ReadMoe(fields, &shape));
      break;
  }
  RETURN_IF_ERROR(CheckSlidingWindow(fields, shape));
  RETURN_IF_ERROR(CheckParameterCount(fields, shape));
  RETURN_IF_ERROR(AddEosTokens(fields, &shape));
  return shape;
}

absl::StatusOr<boost::json::value> ParseObject(absl::string_view json, absl::string_view context) {
  ASSIGN_OR_RETURN(boost::json::value root, ParseJson(json, context));
  if (!root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": the top level is ", JsonExcerpt(root), "; give a JSON object"));
  }
  return root;
}

std::string LastComponent(absl::string_view path) {
  while (path.size() > 1 && absl::ConsumeSuffix(&path, "/")) {
  }
  const size_t slash = path.rfind('/');
  return std::string(slash == absl::string_view::npos ? path : path.substr(slash + 1));
}

}  // namespace

absl::StatusOr<ModelShape> ParseModelShape(absl::string_view json, absl::string_view context) {
  ASSIGN_OR_RETURN(const boost::json::value root, ParseObject(json, context));
  return ReadShape(JsonFields(root.get_object(), std::string(context)));
}

absl::Status AddGenerationConfig(absl::string_view json, absl::string_view context,
                                 ModelShape* shape) {
  ASSIGN_OR_RETURN(const boost::json::value root, ParseObject(json, context));
  return AddEosTokens(JsonFields(root.get_object(), std::string(context)), shape);
}

absl::StatusOr<ModelShape> ReadModelShape(const std::string& folder) {
  const std::string path = absl::StrCat(folder, "/config.json");
  const absl::StatusOr<std::string> text = ReadTextFile(path, kConfigBytesMax);
  if (!text.ok()) {
    return WithContext(text.status(), absl::StrCat("reading the model folder '", folder, "'"));
  }
  ASSIGN_OR_RETURN(ModelShape shape, ParseModelShape(*text, path));
  const std::string generation_path = absl::StrCat(folder, "/generation_config.json");
  const absl::StatusOr<std::string> generation = ReadTextFile(generation_path, kConfigBytesMax);
  if (generation.ok()) {
    RETURN_IF_ERROR(AddGenerationConfig(*generation, generation_path, &shape));
  } else if (!absl::IsNotFound(generation.status())) {
    return generation.status();
  }
  shape.name = LastComponent(folder);
  return shape;
}

}  // namespace conclave
