#include "worker/model/golden.h"

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <sstream>

#include "glog/logging.h"

namespace conclave {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  CHECK(file.good()) << path;
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

double Number(const boost::json::object& object, const char* key, double absent) {
  const boost::json::value* value = object.if_contains(key);
  if (value == nullptr || value->is_null()) return absent;
  return value->to_number<double>();
}

int Int(const boost::json::object& object, const char* key, int absent) {
  return static_cast<int>(Number(object, key, absent));
}

bool Bool(const boost::json::object& object, const char* key, bool absent) {
  const boost::json::value* value = object.if_contains(key);
  return value == nullptr ? absent : value->as_bool();
}

void ReadArchitecture(const boost::json::object& config, ModelShape& shape) {
  const std::string type(config.at("model_type").as_string());
  if (type == "llama") shape.architecture = Architecture::kLlama;
  if (type == "qwen3") shape.architecture = Architecture::kQwen3;
  if (type == "mixtral") shape.architecture = Architecture::kMixtral;
  if (type == "olmoe") shape.architecture = Architecture::kOlmoe;
  if (type == "qwen3_moe") shape.architecture = Architecture::kQwen3Moe;
  CHECK_EQ(type, std::string(ArchitectureName(shape.architecture)));
  if (type == "qwen3" || type == "qwen3_moe") shape.qk_norm = QkNorm::kPerHead;
  if (type == "olmoe") shape.qk_norm = QkNorm::kFullWidth;
  shape.moe.experts = Int(config, "num_local_experts", Int(config, "num_experts", 0));
  shape.moe.top_k = Int(config, "num_experts_per_tok", 0);
  shape.moe.ffn = Int(config, "moe_intermediate_size", shape.ffn);
  shape.moe.normalize_top_k = Bool(config, "norm_topk_prob", true);
  if (shape.moe.experts == 0) shape.moe = {};
}

}  // namespace

std::vector<int32_t> GoldenTensor::IntRow(int64_t i) const {
  const int64_t cols = dims.size() > 1 ? dims[1] : static_cast<int64_t>(ints.size());
  return {ints.begin() + i * cols, ints.begin() + (i + 1) * cols};
}

std::map<std::string, GoldenTensor> ReadGolden(const std::string& path) {
  const std::string bytes = ReadFile(path);
  uint64_t header = 0;
  CHECK_GE(bytes.size(), sizeof(header));
  std::memcpy(&header, bytes.data(), sizeof(header));
  const boost::json::value parsed = boost::json::parse(bytes.substr(8, header));
  const char* data = bytes.data() + 8 + header;
  std::map<std::string, GoldenTensor> tensors;
  for (const auto& item : parsed.as_object()) {
    if (item.key() == "__metadata__") continue;
    const boost::json::object& entry = item.value().as_object();
    GoldenTensor tensor;
    for (const auto& dim : entry.at("shape").as_array()) {
      tensor.dims.push_back(dim.to_number<int64_t>());
    }
    const auto& range = entry.at("data_offsets").as_array();
    const int64_t begin = range[0].to_number<int64_t>();
    const int64_t count = (range[1].to_number<int64_t>() - begin) / 4;
    const bool floats = entry.at("dtype").as_string() == "F32";
    CHECK(floats || entry.at("dtype").as_string() == "I32") << item.key();
    if (floats) tensor.floats.resize(count);
    if (!floats) tensor.ints.resize(count);
    void* out = floats ? static_cast<void*>(tensor.floats.data()) : tensor.ints.data();
    std::memcpy(out, data + begin, count * 4);
    tensors[std::string(item.key())] = std::move(tensor);
  }
  return tensors;
}

ModelShape GoldenShape(const std::string& folder) {
  const boost::json::value parsed = boost::json::parse(ReadFile(folder + "/config.json"));
  const boost::json::object& config = parsed.as_object();
  ModelShape shape;
  shape.layers = Int(config, "num_hidden_layers", 0);
  shape.hidden = Int(config, "hidden_size", 0);
  shape.heads = Int(config, "num_attention_heads", 0);
  shape.kv_heads = Int(config, "num_key_value_heads", shape.heads);
  shape.head_dim = Int(config, "head_dim", shape.hidden / shape.heads);
  shape.ffn = Int(config, "intermediate_size", 0);
  shape.vocab = Int(config, "vocab_size", 0);
  shape.context_tokens = Int(config, "max_position_embeddings", 0);
  shape.norm_epsilon = static_cast<float>(Number(config, "rms_norm_eps", 1e-6));
  shape.tied_embeddings = Bool(config, "tie_word_embeddings", false);
  ReadArchitecture(config, shape);
  const boost::json::object& rope = config.at("rope_parameters").as_object();
  shape.rope.theta = Number(rope, "rope_theta", 10000);
  if (rope.at("rope_type").as_string() == "llama3") {
    shape.rope.kind = RopeShape::Kind::kLlama3;
    shape.rope.factor = Number(rope, "factor", 1);
    shape.rope.low_freq_factor = Number(rope, "low_freq_factor", 1);
    shape.rope.high_freq_factor = Number(rope, "high_freq_factor", 4);
    shape.rope.original_context_tokens = Int(rope, "original_max_position_embeddings", 0);
  }
  shape.weight_dtype = Dtype::kBf16;
  return shape;
}

std::string GoldenFolder(const std::string& name) {
  return name == "demo" ? "tools/demo_model" : "tests/golden/" + name;
}

double WorstDifference(const std::vector<float>& a, const std::vector<float>& b) {
  CHECK_EQ(a.size(), b.size());
  double mean = 0;
  for (float x : b) mean += x;
  mean /= static_cast<double>(b.size());
  double variance = 0;
  for (float x : b) variance += (x - mean) * (x - mean);
  variance /= static_cast<double>(b.size());
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(static_cast<double>(a[i]) - b[i]);
    if (!(difference <= worst)) worst = difference;  // NaN counts
  }
  return worst == worst ? worst / std::sqrt(variance) : std::numeric_limits<double>::infinity();
}

}  // namespace conclave
