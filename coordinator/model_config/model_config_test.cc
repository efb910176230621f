#include "coordinator/model_config/model_config.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "coordinator/model_config/json_fields.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kLlama[] = R"({"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 3,
  "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 128,
  "vocab_size": 512, "max_position_embeddings": 512, "rope_theta": 500000, "eos_token_id": [7, 2],
  "torch_dtype": "float16", "rope_scaling": null})";

constexpr char kMoe[] = R"({"model_type": "qwen3_moe", "hidden_size": 64, "num_hidden_layers": 6,
  "num_attention_heads": 4, "head_dim": null, "intermediate_size": 128, "vocab_size": 512,
  "max_position_embeddings": 512, "num_experts": 16, "num_experts_per_tok": 4,
  "moe_intermediate_size": 32, "norm_topk_prob": true, "mlp_only_layers": [3],
  "decoder_sparse_step": 2, "use_sliding_window": false, "sliding_window": 128,
  "dtype": "bfloat16"})";

std::string Replaced(absl::string_view json, absl::string_view from, absl::string_view to) {
  std::string text = absl::StrReplaceAll(json, {{from, to}});
  EXPECT_NE(text, json) << from;
  return text;
}

// kLlama with one more key at its end.
std::string LlamaWith(absl::string_view key_and_value) {
  return absl::StrCat(std::string(kLlama, sizeof(kLlama) - 2), ", ", key_and_value, "}");
}

void ExpectRefused(const std::string& json, std::initializer_list<const char*> parts,
                   absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
  const absl::StatusOr<ModelShape> shape = ParseModelShape(json, "x/config.json");
  ASSERT_FALSE(shape.ok()) << json;
  EXPECT_EQ(shape.status().code(), code) << shape.status();
  EXPECT_THAT(std::string(shape.status().message()), HasSubstr("x/config.json"));
  for (const char* part : parts)
    EXPECT_THAT(std::string(shape.status().message()), HasSubstr(part));
}

void ExpectUnimplemented(const std::string& json, std::initializer_list<const char*> parts) {
  ExpectRefused(json, parts, absl::StatusCode::kUnimplemented);
}

TEST(ModelConfigTest, OldSpellingAndDefaults) {
  const absl::StatusOr<ModelShape> shape = ParseModelShape(kLlama, "x");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->architecture, Architecture::kLlama);
  EXPECT_EQ(shape->head_dim, 16);
  EXPECT_EQ(shape->kv_heads, 2);
  EXPECT_EQ(shape->rope.theta, 500000.0);
  EXPECT_EQ(shape->rope.kind, RopeShape::Kind::kDefault);
  EXPECT_EQ(shape->weight_dtype, Dtype::kF16);
  EXPECT_FLOAT_EQ(shape->norm_epsilon, 1e-6f);
  EXPECT_FALSE(shape->IsMoe());
  EXPECT_THAT(shape->eos_token_ids, ElementsAre(2, 7));
}

TEST(ModelConfigTest, MoeKeysAndDenseLayers) {
  for (const char* experts : {"num_experts", "num_local_experts", "n_routed_experts"}) {
    const absl::StatusOr<ModelShape> shape = ParseModelShape(
        Replaced(absl::StrCat(kMoe, " "), "\"num_experts\"", absl::StrCat(" \"", experts, "\"")),
        "x");
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(shape->moe, (MoeShape{16, 4, 32, true}));
    EXPECT_THAT(shape->dense_layers, ElementsAre(0, 2, 3, 4));
    EXPECT_EQ(shape->head_dim, 16);
    EXPECT_EQ(shape->kv_heads, 4);
    EXPECT_EQ(shape->qk_norm, QkNorm::kPerHead);
    EXPECT_TRUE(shape->eos_token_ids.empty());
  }
  ExpectRefused(
      Replaced(kMoe, "\"num_experts\": 16", "\"num_experts\": 16, \"num_local_experts\": 8"),
      {"num_experts", "contradicts"});
}

TEST(ModelConfigTest, Llama3RopeInBothSpellings) {
  const char* inner = R"("factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
      "original_max_position_embeddings": 64)";
  const RopeShape want = {RopeShape::Kind::kLlama3, 500000.0, 8.0, 1.0, 4.0, 64};
  const std::string olds[] = {
      absl::StrCat(R"("rope_scaling": {"rope_type": "llama3", )", inner, "}"),
      absl::StrCat(R"("rope_scaling": {"type": "llama3", )", inner, "}")};
  for (const std::string& old : olds) {
    const absl::StatusOr<ModelShape> shape =
        ParseModelShape(Replaced(kLlama, "\"rope_scaling\": null", old), "x");
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(shape->rope, want);
  }
  const absl::StatusOr<ModelShape> shape = ParseModelShape(
      LlamaWith(absl::StrCat(
          R"("rope_parameters": {"rope_theta": 500000.0, "rope_type": "llama3",)", inner, "}")),
      "x");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->rope, want);
}

TEST(ModelConfigTest, GoldenConfigs) {
  const struct {
    const char* name;
    Architecture architecture;
    int layers, kv_heads, head_dim, experts, top_k, expert_ffn;
    QkNorm qk_norm;
    bool tied;
  } cases[] = {
      {"llama", Architecture::kLlama, 3, 2, 16, 0, 0, 0, QkNorm::kNone, false},
      {"llama31", Architecture::kLlama, 2, 4, 16, 0, 0, 0, QkNorm::kNone, true},
      {"qwen3", Architecture::kQwen3, 2, 2, 32, 0, 0, 0, QkNorm::kPerHead, false},
      {"mixtral", Architecture::kMixtral, 3, 2, 16, 8, 2, 96, QkNorm::kNone, false},
      {"olmoe", Architecture::kOlmoe, 2, 4, 16, 8, 2, 32, QkNorm::kFullWidth, false},
      {"qwen3_moe", Architecture::kQwen3Moe, 3, 2, 32, 16, 4, 32, QkNorm::kPerHead, false},
  };
  for (const auto& want : cases) {
    const absl::StatusOr<ModelShape> shape =
        ReadModelShape(absl::StrCat("tests/golden/", want.name));
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(shape->name, want.name);
    EXPECT_EQ(shape->architecture, want.architecture);
    EXPECT_EQ(shape->layers, want.layers);
    EXPECT_EQ(shape->hidden, 64);
    EXPECT_EQ(shape->kv_heads, want.kv_heads);
    EXPECT_EQ(shape->head_dim, want.head_dim);
    EXPECT_EQ(shape->moe.experts, want.experts);
    EXPECT_EQ(shape->moe.top_k, want.top_k);
    EXPECT_EQ(shape->moe.ffn, want.expert_ffn);
    EXPECT_EQ(shape->qk_norm, want.qk_norm);
    EXPECT_EQ(shape->tied_embeddings, want.tied);
    EXPECT_EQ(shape->weight_dtype, Dtype::kBf16);
    EXPECT_TRUE(shape->dense_layers.empty());
  }
  EXPECT_EQ(ReadModelShape("tests/golden/llama31")->rope,
            (RopeShape{RopeShape::Kind::kLlama3, 500000.0, 8.0, 1.0, 4.0, 64}));
  EXPECT_FALSE(ReadModelShape("tests/golden/olmoe")->moe.normalize_top_k);
}

TEST(ModelConfigTest, DemoModel) {
  const absl::StatusOr<ModelShape> shape = ReadModelShape("tools/demo_model/");
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_EQ(shape->name, "demo_model");
  EXPECT_EQ(shape->vocab, 4096);
  EXPECT_EQ(shape->TotalParameters(), 11694080);
  EXPECT_THAT(shape->eos_token_ids, ElementsAre(0));
}

TEST(ModelConfigTest, Presets) {
  const absl::StatusOr<ModelShape> olmoe = PresetShape("OLMoE-1B-7B");
  ASSERT_TRUE(olmoe.ok());
  EXPECT_EQ(olmoe->TotalParameters(),
            6919161856);  // model.safetensors.index.json: 13838323712 bytes
  EXPECT_EQ(PresetShape("qwen3-30b-a3b")->TotalParameters(), 30532122624);
  EXPECT_EQ(PresetShape("mixtral-8x7b")->TotalParameters(), 46702792704);
  const absl::StatusOr<ModelShape> unknown = PresetShape("gpt-9");
  ASSERT_FALSE(unknown.ok());
  EXPECT_THAT(unknown.status().message(), HasSubstr("gpt-9"));
  EXPECT_THAT(unknown.status().message(), HasSubstr("olmoe-1b-7b"));
  for (const std::string& name : PresetNames()) {
    ModelShape shape = *PresetShape(name);
    const absl::StatusOr<ModelShape> read = ParseModelShape(WriteModelConfig(shape), name);
    ASSERT_TRUE(read.ok()) << read.status();
    shape.name.clear();
    EXPECT_EQ(*read, shape) << name;
  }
}

TEST(ModelConfigTest, UnsupportedSettingsAreNamed) {
  ExpectUnimplemented(LlamaWith(R"("attention_bias": true)"), {"attention_bias", "true"});
  ExpectUnimplemented(LlamaWith(R"("mlp_bias": true)"), {"mlp_bias", "true"});
  ExpectUnimplemented(LlamaWith(R"("hidden_act": "gelu")"), {"hidden_act", "gelu", "silu"});
  ExpectUnimplemented(LlamaWith(R"("clip_qkv": 8.0)"), {"clip_qkv", "8"});
  ExpectUnimplemented(LlamaWith(R"("quantization_config": {"bits": 4})"), {"quantization_config"});
  ExpectUnimplemented(LlamaWith(R"("partial_rotary_factor": 0.5)"), {"partial_rotary_factor"});
  ExpectUnimplemented(Replaced(kLlama, "float16", "float8_e4m3"), {"torch_dtype", "float8_e4m3"});
  ExpectUnimplemented(Replaced(kLlama, "\"rope_scaling\": null",
                               R"("rope_scaling": {"type": "yarn", "factor": 4})"),
                      {"rope_scaling", "yarn", "llama3"});
  ExpectUnimplemented(
      Replaced(kMoe, "\"use_sliding_window\": false", "\"use_sliding_window\": true"),
      {"sliding_window", "128"});
  ExpectUnimplemented(LlamaWith(R"("layer_types": ["full_attention", "sliding_attention"])"),
                      {"layer_types", "sliding_attention"});
}

TEST(ModelConfigTest, MixtralWindow) {
  const std::string mixtral =
      Replaced(Replaced(kMoe, "qwen3_moe", "mixtral"), "\"use_sliding_window\": false, ", "");
  ExpectUnimplemented(mixtral, {"sliding_window", "128"});
  EXPECT_TRUE(
      ParseModelShape(Replaced(mixtral, "\"sliding_window\": 128", "\"sliding_window\": 4096"), "x")
          .ok());
}

TEST(ModelConfigTest, BadInputNamesFileKeyAndValue) {
  ExpectRefused("", {"JSON"});
  ExpectRefused("{\"a\": 1", {"JSON"});
  ExpectRefused("{} x", {"JSON"});
  ExpectRefused("[1]", {"object"});
  ExpectRefused(std::string(100, '['), {"JSON"});
  ExpectRefused("{}", {"model_type", "missing"});
  ExpectRefused(R"({"model_type": "gpt2"})", {"model_type", "gpt2", "llama", "qwen3_moe", "olmoe"});
  ExpectRefused(R"({"model_type": 3})", {"model_type", "3"});
  ExpectRefused(Replaced(kLlama, "\"hidden_size\": 64", "\"hidden_size\": -64"),
                {"hidden_size", "-64"});
  ExpectRefused(Replaced(kLlama, "\"hidden_size\": 64", "\"hidden_size\": \"64\""),
                {"hidden_size", "\"64\""});
  ExpectRefused(Replaced(kLlama, "\"hidden_size\": 64,", ""), {"hidden_size", "missing"});
  ExpectRefused(Replaced(kLlama, "\"vocab_size\": 512", "\"vocab_size\": 2147483648"),
                {"vocab_size", "2147483648"});
  ExpectRefused(Replaced(kLlama, "\"vocab_size\": 512", "\"vocab_size\": 18446744073709551615"),
                {"vocab_size"});
  ExpectRefused(Replaced(kLlama, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 0"),
                {"num_hidden_layers", "0"});
  ExpectRefused(Replaced(kLlama, "heads\": 4", "heads\": 2147483646"),
                {"num_attention_heads", "hidden_size"});
  ExpectRefused(Replaced(kLlama, "\"num_key_value_heads\": 2", "\"num_key_value_heads\": 3"),
                {"num_key_value_heads", "3"});
  ExpectRefused(LlamaWith("\"head_dim\": 1073741824"), {"num_attention_heads", "1073741824"});
  ExpectRefused(LlamaWith("\"head_dim\": 15"), {"head_dim", "15", "even"});
  ExpectRefused(LlamaWith("\"rms_norm_eps\": 0"), {"rms_norm_eps", "0"});
  ExpectRefused(LlamaWith("\"tie_word_embeddings\": 1"), {"tie_word_embeddings", "1"});
  ExpectRefused(Replaced(kLlama, "500000", "-1"), {"rope_theta", "-1"});
  ExpectRefused(Replaced(kLlama, "[7, 2]", "[7, -2]"), {"eos_token_id", "-2"});
  ExpectRefused(Replaced(kLlama, "\"hidden_size\": 64", "\"hidden_size\": 2147483640"),
                {"hidden_size", "2147483640", "2^60"});
  ExpectRefused(Replaced(kMoe, "\"num_experts_per_tok\": 4", "\"num_experts_per_tok\": 17"),
                {"num_experts_per_tok", "17", "16"});
  ExpectRefused(Replaced(kMoe, "[3]", "[6]"), {"mlp_only_layers", "6"});
  ExpectRefused(LlamaWith("\"rope_parameters\": {\"rope_type\": \"llama3\"}"),
                {"rope_parameters", "factor", "missing"});
}

TEST(ModelConfigTest, Folders) {
  EXPECT_EQ(ReadModelShape("no/such/folder").status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(ReadModelShape("no/such/folder").status().message(), HasSubstr("no/such/folder"));

  const std::filesystem::path folder =
      std::filesystem::path(::testing::TempDir()) / "model_config_test_folder";
  std::filesystem::create_directories(folder);
  std::ofstream(folder / "config.json") << kLlama;
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": [9, 2]})";
  const absl::StatusOr<ModelShape> shape = ReadModelShape(folder.string());
  ASSERT_TRUE(shape.ok()) << shape.status();
  EXPECT_THAT(shape->eos_token_ids, ElementsAre(2, 7, 9));
  std::ofstream(folder / "generation_config.json") << R"({"eos_token_id": "x"})";
  EXPECT_THAT(ReadModelShape(folder.string()).status().message(),
              HasSubstr("generation_config.json"));
  std::filesystem::remove_all(folder);
}

TEST(JsonFieldsTest, ExcerptKeepsCharactersWhole) {
  const boost::json::value value = {std::string(78, 'a') + "\xc3\xa9\xc3\xa9"};
  EXPECT_EQ(JsonExcerpt(value), "[\"" + std::string(78, 'a') + "...");
}

}  // namespace
}  // namespace conclave
