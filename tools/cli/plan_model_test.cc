#include "tools/cli/plan_model.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr char kFp8[] =
    R"("quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3",
       "quant_method": "fp8", "weight_block_size": [128, 128]})";

// The keys that matter of deepseek-ai/DeepSeek-V3 and moonshotai/Kimi-K2-Instruct.
std::string DeepSeekV3() {
  return std::string(R"({"model_type": "deepseek_v3", "first_k_dense_replace": 3,
    "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 163840, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 128,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 128,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 129280, )") +
         kFp8 + "}";
}

std::string KimiK2() {
  return std::string(R"({"model_type": "kimi_k2", "first_k_dense_replace": 1,
    "hidden_size": 7168, "intermediate_size": 18432, "kv_lora_rank": 512,
    "max_position_embeddings": 131072, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
    "n_routed_experts": 384, "n_shared_experts": 1, "num_attention_heads": 64,
    "num_experts_per_tok": 8, "num_hidden_layers": 61, "num_key_value_heads": 64,
    "q_lora_rank": 1536, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
    "tie_word_embeddings": false, "torch_dtype": "bfloat16", "vocab_size": 163840, )") +
         kFp8 + "}";
}

std::string With(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(PlanModelTest, DeepSeekV3IsThePreset) {
  absl::StatusOr<ModelDims> dims = ParsePlanModel(DeepSeekV3(), "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  EXPECT_EQ(dims->context_tokens, 163840);
  const ModelDims preset = *PresetDims("deepseek-v3");
  dims->name = preset.name;
  dims->context_tokens = preset.context_tokens;  // a limit of requests, not a size of the model
  EXPECT_EQ(*dims, preset);
  EXPECT_EQ(dims->MoeLayers(), 58);
  EXPECT_NEAR(dims->TotalWeights(), 671e9, 1e9);
}

TEST(PlanModelTest, KimiK2IsThePreset) {
  absl::StatusOr<ModelDims> dims = ParsePlanModel(KimiK2(), "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  dims->name = "kimi-k2";
  EXPECT_EQ(*dims, *PresetDims("kimi-k2"));
  EXPECT_NEAR(dims->TotalWeights(), 1.026e12, 2e9);
}

TEST(PlanModelTest, LayersWithExperts) {
  const std::string every = With(DeepSeekV3(), R"("moe_layer_freq": 1)", R"("moe_layer_freq": 2)");
  absl::StatusOr<ModelDims> dims = ParsePlanModel(every, "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  EXPECT_FALSE(dims->moe_layers[2]);  // below first_k_dense_replace
  EXPECT_FALSE(dims->moe_layers[3]);
  EXPECT_TRUE(dims->moe_layers[4]);
  std::string list = "[0";
  for (int layer = 1; layer < 61; ++layer) list += layer == 9 ? ", 1" : ", 0";
  dims = ParsePlanModel(
      With(DeepSeekV3(), R"("moe_layer_freq": 1)", R"("moe_layer_freq": )" + list + "]"),
      "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  EXPECT_EQ(dims->MoeLayers(), 1);
  EXPECT_TRUE(dims->moe_layers[9]);
}

TEST(PlanModelTest, AMixedChoiceOfExperts) {
  const absl::StatusOr<ModelDims> dims = ParsePlanModel(
      R"({"model_type": "qwen2_moe", "hidden_size": 2048, "intermediate_size": 5632,
          "max_position_embeddings": 8192, "moe_intermediate_size": 1408,
          "shared_expert_intermediate_size": 5632, "num_attention_heads": 16, "num_experts": 60,
          "num_experts_per_tok": 4, "num_hidden_layers": 24, "num_key_value_heads": 16,
          "decoder_sparse_step": 2, "mlp_only_layers": [1], "vocab_size": 151936,
          "torch_dtype": "bfloat16"})",
      "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  EXPECT_EQ(dims->head_dim, 128);
  EXPECT_EQ(dims->shared_ffn, 5632);
  EXPECT_EQ(dims->MoeLayers(), 11);
  EXPECT_FALSE(dims->moe_layers[0]);
  EXPECT_FALSE(dims->moe_layers[1]);
  EXPECT_TRUE(dims->moe_layers[3]);
}

TEST(PlanModelTest, RuntimeArchitecturesAreReadAsTheRuntimeDoes) {
  const std::string text =
      R"({"model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
          "max_position_embeddings": 40960, "moe_intermediate_size": 768, "head_dim": 128,
          "num_attention_heads": 32, "num_experts": 128, "num_experts_per_tok": 8,
          "num_hidden_layers": 48, "num_key_value_heads": 4, "vocab_size": 151936,
          "norm_topk_prob": true, "torch_dtype": "bfloat16", "rms_norm_eps": 1e-6,
          "quantization_config": {"quant_method": "awq", "bits": 4}})";
  absl::StatusOr<ModelDims> dims = ParsePlanModel(text, "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  EXPECT_EQ(dims->expert_format, NumberFormat::kInt4);
  ModelDims preset = *PresetDims("qwen3-30b-a3b");
  EXPECT_DOUBLE_EQ(dims->TotalWeights(), preset.TotalWeights());
  ASSERT_TRUE(ApplyFormats({"fp8", "fp8"}, &*dims).ok());
  EXPECT_EQ(dims->format, NumberFormat::kFp8);
  EXPECT_EQ(dims->kv_format, NumberFormat::kFp8);
}

TEST(PlanModelTest, QuantisedExpertsAlone) {
  const std::string text = With(KimiK2(), kFp8,
                                R"("quantization_config": {"quant_method": "compressed-tensors",
              "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
              "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*"]})");
  const absl::StatusOr<ModelDims> dims = ParsePlanModel(text, "config.json");
  ASSERT_TRUE(dims.ok()) << dims.status();
  EXPECT_EQ(dims->expert_format, NumberFormat::kInt4);
  EXPECT_EQ(dims->format, NumberFormat::kBf16);
}

TEST(PlanModelTest, BadConfigsNameFileKeyValueAndRemedy) {
  const struct {
    std::string text;
    std::vector<const char*> says;
  } kCases[] = {
      {"[]", {"config.json", "not a JSON object"}},
      {"{}", {"config.json", "model_type", "missing"}},
      {With(DeepSeekV3(), "deepseek_v3", "mamba"), {"model_type", "mamba", "kimi_k2"}},
      {With(DeepSeekV3(), "\"hidden_size\": 7168", "\"hidden_size\": -1"), {"hidden_size", "-1"}},
      {With(DeepSeekV3(), "\"kv_lora_rank\": 512", "\"kv_lora_rank\": \"x\""), {"kv_lora_rank"}},
      {With(DeepSeekV3(), "\"num_experts_per_tok\": 8", "\"num_experts_per_tok\": 999"),
       {"num_experts_per_tok", "999", "256"}},
      {With(DeepSeekV3(), "\"fp8\"", "\"magic\""), {"quant_method", "magic", "--quantization"}},
      {With(DeepSeekV3(), "\"num_hidden_layers\": 61", "\"num_hidden_layers\": 2"),
       {"first_k_dense_replace"}},
      {With(DeepSeekV3(), "\"moe_layer_freq\": 1", "\"moe_layer_freq\": 0"), {"moe_layer_freq"}},
      {With(DeepSeekV3(), "\"moe_layer_freq\": 1", "\"moe_layer_freq\": [1]"),
       {"moe_layer_freq", "61 entries"}},
  };
  for (const auto& test : kCases) {
    const absl::StatusOr<ModelDims> dims = ParsePlanModel(test.text, "config.json");
    EXPECT_EQ(dims.status().code(), absl::StatusCode::kInvalidArgument) << test.text;
    for (const char* part : test.says) EXPECT_THAT(dims.status().message(), HasSubstr(part));
  }
}

TEST(PlanModelTest, UnknownNamesGetTheNearest) {
  EXPECT_EQ(NearestName("deepseek-v4", PresetDimsNames()), "deepseek-v3");
  EXPECT_EQ(NearestName("Kimi-K2", PresetDimsNames()), "kimi-k2");
  EXPECT_EQ(NearestName("qwen3-30b", PresetDimsNames()), "qwen3-30b-a3b");
  EXPECT_EQ(NearestName("gpt", PresetDimsNames()), "");
  const absl::Status status = LoadPlanModel("mixtral-8x7", {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("did you mean 'mixtral-8x7b'?"));
  EXPECT_FALSE(LoadPlanModel("kimi-k2", {"int3", "auto"}).ok());
  EXPECT_FALSE(LoadPlanModel("kimi-k2", {"", "int3"}).ok());
  EXPECT_FALSE(LoadPlanModel("", {}).ok());
}

}  // namespace
}  // namespace conclave
