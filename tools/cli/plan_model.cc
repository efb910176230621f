#include "tools/cli/plan_model.h"

#include <sys/stat.h>

#include <algorithm>
#include <filesystem>
#include <limits>
#include <numeric>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "coordinator/model_config/json_fields.h"
#include "coordinator/model_config/model_config.h"

namespace conclave {
namespace {

namespace json = boost::json;

constexpr size_t kConfigBytesMax = 4 << 20;
constexpr IntRange kSize = {1, 1 << 24};
constexpr IntRange kSizeOrNone = {0, 1 << 24};
constexpr IntRange kLayers = {1, 100000};

// What planning reads beyond the runtime's own architectures.
constexpr absl::string_view kPlannedTypes[] = {
    "deepseek_v2", "deepseek_v3", "deepseek_v32", "kimi_k2",    "glm4_moe",    "gpt_oss",
    "qwen2",       "qwen2_moe",   "mistral",      "minimax_m2", "ernie4_5_moe"};

bool RuntimeReads(absl::string_view type) {
  for (const absl::string_view known : {"llama", "qwen3", "mixtral", "olmoe", "qwen3_moe"}) {
    if (type == known) return true;
  }
  return false;
}

// The first of `keys` that is present, else `fallback`.
absl::StatusOr<int> IntOfAny(const JsonFields& fields, std::initializer_list<const char*> keys,
                             IntRange range, int fallback) {
  for (const char* key : keys) {
    if (fields.Find(key) != nullptr) {
      ASSIGN_OR_RETURN(const int64_t number, fields.Int(key, range));
      return static_cast<int>(number);
    }
  }
  return fallback;
}

absl::StatusOr<int> ReadInt(const JsonFields& fields, const char* key, IntRange range) {
  ASSIGN_OR_RETURN(const int64_t number, fields.Int(key, range));
  return static_cast<int>(number);
}

// Multi-head latent attention: a latent of kv_lora_rank for keys and values, and qk_rope_head_dim
// rotated numbers beside it (DeepSeek-V2, arXiv 2405.04434).
absl::Status ReadLatentAttention(const JsonFields& fields, ModelDims* dims) {
  ASSIGN_OR_RETURN(dims->kv_rank, ReadInt(fields, "kv_lora_rank", kSize));
  ASSIGN_OR_RETURN(dims->q_rank, IntOfAny(fields, {"q_lora_rank"}, kSizeOrNone, 0));
  ASSIGN_OR_RETURN(dims->head_dim, ReadInt(fields, "qk_nope_head_dim", kSize));
  ASSIGN_OR_RETURN(dims->rope_dim, ReadInt(fields, "qk_rope_head_dim", kSize));
  ASSIGN_OR_RETURN(dims->value_dim, ReadInt(fields, "v_head_dim", kSize));
  dims->kv_heads = dims->heads;
  return absl::OkStatus();
}

absl::Status ReadAttention(const JsonFields& fields, ModelDims* dims) {
  ASSIGN_OR_RETURN(dims->heads, ReadInt(fields, "num_attention_heads", kSize));
  if (fields.Find("kv_lora_rank") != nullptr) return ReadLatentAttention(fields, dims);
  ASSIGN_OR_RETURN(dims->kv_heads, IntOfAny(fields, {"num_key_value_heads"}, kSize, dims->heads));
  if (dims->heads % dims->kv_heads != 0) {
    return fields.Refuse("num_key_value_heads",
                         absl::StrCat("give a divisor of the ", dims->heads, " attention heads"));
  }
  ASSIGN_OR_RETURN(dims->head_dim, IntOfAny(fields, {"head_dim"}, kSize, 0));
  if (dims->head_dim > 0) return absl::OkStatus();
  if (dims->hidden % dims->heads != 0) {
    return fields.Refuse("num_attention_heads", absl::StrCat("give a divisor of hidden_size, ",
                                                             dims->hidden, ", or head_dim"));
  }
  dims->head_dim = dims->hidden / dims->heads;
  return absl::OkStatus();
}

// Which layers have experts: all from first_k_dense_replace on whose index is a multiple of
// moe_layer_freq (a list: one entry a layer), without mlp_only_layers, every
// decoder_sparse_step-th.
absl::Status ReadMoeLayers(const JsonFields& fields, ModelDims* dims) {
  const int layers = dims->layers;
  ASSIGN_OR_RETURN(
      const int first,
      IntOfAny(fields, {"first_k_dense_replace", "moe_layer_start_index"}, {0, layers}, 0));
  ASSIGN_OR_RETURN(const int step, IntOfAny(fields, {"decoder_sparse_step"}, kSize, 1));
  ASSIGN_OR_RETURN(const std::vector<int64_t> only,
                   fields.IntList("mlp_only_layers", {0, layers - 1}));
  ASSIGN_OR_RETURN(const std::vector<int64_t> freq, fields.IntList("moe_layer_freq", kSizeOrNone));
  const json::value* raw = fields.Find("moe_layer_freq");
  const bool listed = raw != nullptr && raw->is_array();
  if (listed && static_cast<int>(freq.size()) != layers) {
    return fields.Refuse("moe_layer_freq", absl::StrCat("give ", layers, " entries, one a layer"));
  }
  if (!listed && !freq.empty() && freq[0] == 0) {
    return fields.Refuse("moe_layer_freq", "give an integer of at least 1");
  }
  for (int layer = first; layer < layers; ++layer) {
    const bool periodic = listed         ? freq[layer] != 0
                          : freq.empty() ? (layer + 1) % step == 0
                                         : layer % freq[0] == 0;
    const bool dense = std::find(only.begin(), only.end(), layer) != only.end();
    dims->moe_layers[layer] = periodic && !dense;
  }
  return absl::OkStatus();
}

absl::Status ReadExperts(const JsonFields& fields, ModelDims* dims) {
  dims->moe_layers.assign(dims->layers, false);
  ASSIGN_OR_RETURN(
      dims->experts,
      IntOfAny(fields, {"n_routed_experts", "num_experts", "num_local_experts", "moe_num_experts"},
               kSizeOrNone, 0));
  if (dims->experts == 0) return absl::OkStatus();
  const char* key = fields.Find("moe_k") != nullptr ? "moe_k" : "num_experts_per_tok";
  ASSIGN_OR_RETURN(dims->top_k, ReadInt(fields, key, {1, dims->experts}));
  ASSIGN_OR_RETURN(dims->expert_ffn, IntOfAny(fields, {"moe_intermediate_size"}, kSize, dims->ffn));
  ASSIGN_OR_RETURN(const int shared,
                   IntOfAny(fields, {"n_shared_experts", "moe_num_shared_experts"}, {0, 4096}, 0));
  ASSIGN_OR_RETURN(dims->shared_ffn, IntOfAny(fields, {"shared_expert_intermediate_size"},
                                              kSizeOrNone, shared * dims->expert_ffn));
  return ReadMoeLayers(fields, dims);
}

absl::StatusOr<ModelDims> ReadDims(const JsonFields& fields) {
  ModelDims dims;
  ASSIGN_OR_RETURN(dims.layers, ReadInt(fields, "num_hidden_layers", kLayers));
  ASSIGN_OR_RETURN(dims.hidden, ReadInt(fields, "hidden_size", kSize));
  ASSIGN_OR_RETURN(dims.vocab, ReadInt(fields, "vocab_size", kSize));
  ASSIGN_OR_RETURN(dims.context_tokens, ReadInt(fields, "max_position_embeddings", kSize));
  ASSIGN_OR_RETURN(dims.ffn, ReadInt(fields, "intermediate_size", kSize));
  ASSIGN_OR_RETURN(dims.tied_embeddings, fields.BoolOr("tie_word_embeddings", false));
  RETURN_IF_ERROR(ReadAttention(fields, &dims));
  RETURN_IF_ERROR(ReadExperts(fields, &dims));
  const char* key = fields.Find("dtype") != nullptr ? "dtype" : "torch_dtype";
  ASSIGN_OR_RETURN(const std::string dtype, fields.StringOr(key, "bfloat16"));
  dims.format = dtype == "float32" ? NumberFormat::kF32 : NumberFormat::kBf16;
  dims.expert_format = dims.format;
  return dims;
}

// compressed-tensors: one group of targets with num_bits of type int or float; what it ignores
// stays as it was. Checkpoints that ignore attention quantise the experts alone (Kimi-K2-Thinking).
absl::Status ReadCompressedTensors(const JsonFields& config, ModelDims* dims) {
  ASSIGN_OR_RETURN(const json::object* groups, config.ObjectOrNull("config_groups"));
  if (groups == nullptr || groups->size() != 1 || !groups->begin()->value().is_object()) {
    return config.Refuse("config_groups", "one group is read; give --quantization instead");
  }
  const std::string context = absl::StrCat(config.context(), ": config_groups");
  const JsonFields group(groups->begin()->value().get_object(), context);
  ASSIGN_OR_RETURN(const json::object* weights, group.ObjectOrNull("weights"));
  if (weights == nullptr) return group.Refuse("weights", "give num_bits and type");
  const JsonFields fields(*weights, absl::StrCat(context, ": weights"));
  ASSIGN_OR_RETURN(const int64_t bits, fields.Int("num_bits", {4, 8}));
  ASSIGN_OR_RETURN(const std::string type, fields.StringOr("type", "int"));
  dims->expert_format = bits == 4 ? (type == "int" ? NumberFormat::kInt4 : NumberFormat::kMxfp4)
                        : type == "float" ? NumberFormat::kFp8
                                          : NumberFormat::kInt8;
  const json::value* ignored = config.Find("ignore");
  const bool experts_only =
      ignored != nullptr && absl::StrContains(json::serialize(*ignored), "self_attn");
  if (!experts_only) dims->format = dims->expert_format;
  return absl::OkStatus();
}

// Sources: the quantization_config of the checkpoints that each quant_method's documentation in
// transformers describes.
absl::Status ReadQuantization(const JsonFields& config, ModelDims* dims) {
  ASSIGN_OR_RETURN(const std::string method, config.String("quant_method"));
  if (method == "compressed-tensors") return ReadCompressedTensors(config, dims);
  if (method == "mxfp4") {
    dims->expert_format = NumberFormat::kMxfp4;
    return absl::OkStatus();
  }
  if (method == "fp8" || method == "fbgemm_fp8") {
    dims->format = NumberFormat::kFp8;
  } else if (method == "gptq" || method == "awq") {
    ASSIGN_OR_RETURN(const int64_t bits, config.IntOr("bits", {4, 8}, 4));
    dims->format = bits == 8 ? NumberFormat::kInt8 : NumberFormat::kInt4;
  } else if (method == "bitsandbytes") {
    ASSIGN_OR_RETURN(const bool four, config.BoolOr("load_in_4bit", false));
    dims->format = four ? NumberFormat::kInt4 : NumberFormat::kInt8;
  } else {
    return config.Refuse("quant_method",
                         "known are fp8, fbgemm_fp8, gptq, awq, mxfp4, bitsandbytes and "
                         "compressed-tensors; take quantization_config out and give "
                         "--quantization instead");
  }
  dims->expert_format = dims->format;
  return absl::OkStatus();
}

// Products of sizes stay finite whatever the file says, but a model beyond 2^60 weights is a
// mistake in it.
absl::Status CheckSize(const ModelDims& dims, absl::string_view context) {
  if (dims.TotalWeights() < 0x1p60) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(context, ": the sizes make a model of ", dims.TotalWeights(),
                   " weights; correct num_hidden_layers, hidden_size and the widths"));
}

absl::StatusOr<ModelDims> ReadByType(const json::object& object, const JsonFields& fields,
                                     const std::string& type) {
  if (RuntimeReads(type)) {
    json::object plain = object;
    plain.erase("quantization_config");
    absl::StatusOr<ModelShape> shape = ParseModelShape(json::serialize(plain), fields.context());
    if (shape.ok()) return DimsOf(*shape);
    // A setting that the runtime does not compute may still be planned for.
    if (shape.status().code() != absl::StatusCode::kUnimplemented) return shape.status();
    return ReadDims(fields);
  }
  for (const absl::string_view known : kPlannedTypes) {
    if (type == known) return ReadDims(fields);
  }
  return fields.Refuse("model_type",
                       absl::StrCat("plans are made for llama, qwen3, mixtral, olmoe, qwen3_moe, ",
                                    absl::StrJoin(kPlannedTypes, ", ")));
}

int EditDistance(absl::string_view a, absl::string_view b) {
  std::vector<int> row(b.size() + 1);
  std::iota(row.begin(), row.end(), 0);
  for (size_t i = 0; i < a.size(); ++i) {
    int diagonal = row[0]++;
    for (size_t j = 0; j < b.size(); ++j) {
      const int replaced = diagonal + (a[i] == b[j] ? 0 : 1);
      diagonal = row[j + 1];
      row[j + 1] = std::min({replaced, row[j] + 1, row[j + 1] + 1});
    }
  }
  return row.back();
}

}  // namespace

std::string NearestName(absl::string_view name, const std::vector<std::string>& names) {
  const std::string asked = absl::AsciiStrToLower(name);
  std::string best;
  int best_distance = std::numeric_limits<int>::max();
  for (const std::string& known : names) {
    if (asked.empty() || asked.size() > 64) continue;
    // A part of one name, such as "deepseek", is as near as a slip of the keys.
    const bool part = asked.size() >= 3 && absl::StrContains(known, asked);
    const int distance = part ? 1 : EditDistance(asked, known);
    if (distance < best_distance) {
      best = known;
      best_distance = distance;
    }
  }
  return best_distance <= std::max<int>(2, static_cast<int>(asked.size()) / 3) ? best : "";
}

absl::Status ApplyFormats(const PlanFormats& formats, ModelDims* dims) {
  if (!formats.quantization.empty()) {
    const std::string& name = formats.quantization;
    const std::string plain = name == "none" ? "bf16" : name == "nf4" ? "int4" : name;
    const absl::StatusOr<NumberFormat> format = ParseNumberFormat(plain);
    if (!format.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("--quantization '", name, "': use none, fp8, int8, int4, nf4 or mxfp4"));
    }
    dims->format = *format;
    dims->expert_format = *format;
  }
  const std::string& kv = formats.kv_cache;
  if (kv == "auto") return absl::OkStatus();
  if (kv == "float32") {
    dims->kv_format = NumberFormat::kF32;
  } else if (kv == "float16" || kv == "bfloat16") {
    dims->kv_format = NumberFormat::kBf16;
  } else if (kv == "fp8") {
    dims->kv_format = NumberFormat::kFp8;
  } else if (kv == "int8") {
    dims->kv_format = NumberFormat::kInt8;
  } else {
    return absl::InvalidArgumentError(absl::StrCat(
        "--kv-cache-dtype '", kv, "': use auto, float32, float16, bfloat16, fp8 or int8"));
  }
  return absl::OkStatus();
}

absl::StatusOr<ModelDims> ParsePlanModel(absl::string_view text, absl::string_view context) {
  ASSIGN_OR_RETURN(const json::value root, ParseJson(text, context));
  if (!root.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat(context, ": not a JSON object; give the config.json of a checkpoint"));
  }
  const JsonFields top(root.get_object(), std::string(context));
  // Models of several senses keep the language model's sizes one level down.
  ASSIGN_OR_RETURN(const json::object* inner, top.ObjectOrNull("text_config"));
  const json::object& object = inner == nullptr ? root.get_object() : *inner;
  const JsonFields fields(
      object, inner == nullptr ? std::string(context) : absl::StrCat(context, ": text_config"));
  ASSIGN_OR_RETURN(const std::string type, fields.String("model_type"));
  ASSIGN_OR_RETURN(ModelDims dims, ReadByType(object, fields, type));
  RETURN_IF_ERROR(CheckSize(dims, fields.context()));
  for (const JsonFields& place : {fields, top}) {
    ASSIGN_OR_RETURN(const json::object* config, place.ObjectOrNull("quantization_config"));
    if (config == nullptr) continue;
    const JsonFields quantization(*config, absl::StrCat(place.context(), ": quantization_config"));
    RETURN_IF_ERROR(ReadQuantization(quantization, &dims));
    break;
  }
  dims.name = type;
  return dims;
}

absl::StatusOr<ModelDims> LoadPlanModel(const std::string& model, const PlanFormats& formats) {
  namespace fs = std::filesystem;
  std::error_code error;
  const bool folder = fs::is_directory(model, error);
  if (!folder && !fs::is_regular_file(model, error)) {
    absl::StatusOr<ModelDims> dims = PresetDims(model);
    if (!dims.ok()) {
      const std::string near = NearestName(model, PresetDimsNames());
      return absl::InvalidArgumentError(
          absl::StrCat("--model '", model, "' is neither a folder with a config.json nor a preset",
                       near.empty() ? "" : absl::StrCat("; did you mean '", near, "'?"),
                       " The presets are ", absl::StrJoin(PresetDimsNames(), ", ")));
    }
    RETURN_IF_ERROR(ApplyFormats(formats, &*dims));
    return dims;
  }
  const std::string path = folder ? absl::StrCat(model, "/config.json") : model;
  const absl::StatusOr<std::string> text = ReadTextFile(path, kConfigBytesMax);
  if (!text.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("--model: ", text.status().message()));
  }
  ASSIGN_OR_RETURN(ModelDims dims, ParsePlanModel(*text, path));
  const fs::path place = fs::absolute(folder ? fs::path(model) : fs::path(model).parent_path());
  const fs::path name =
      place.filename().empty() ? place.parent_path().filename() : place.filename();
  if (!name.empty()) dims.name = name.string();
  RETURN_IF_ERROR(ApplyFormats(formats, &dims));
  return dims;
}

}  // namespace conclave
