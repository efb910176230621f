#include "kernels/token_step/token_step.h"

#include <cmath>
#include <ostream>
#include <string>
#include <utility>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/token_step/token_test_kit.h"

namespace conclave {
namespace {

struct TokenCase {
  std::string name;
  TokenShape shape;
  std::vector<bool> routed;
  int position = 0;
};

void PrintTo(const TokenCase& c, std::ostream* to) { *to << c.name; }

class TokenStepTest : public testing::TestWithParam<TokenCase> {};

// ||got - want|| / ||want - from||: errors beside what the step added.
double RelativeError(const std::vector<float>& got, const std::vector<float>& want,
                     const std::vector<float>& from) {
  double error = 0, size = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += std::pow(got[i] - want[i], 2);
    size += std::pow(want[i] - from[i], 2);
  }
  return std::sqrt(error / size);
}

// Poison must match; rows are of many roundings, so a few may fall on the other side.
double CacheError(const std::vector<uint16_t>& got, const std::vector<uint16_t>& want) {
  double error = 0, size = 1e-30;
  for (size_t i = 0; i < got.size(); ++i) {
    if ((got[i] == 0xffff) != (want[i] == 0xffff)) return INFINITY;
    if (got[i] == want[i]) continue;
    error += std::pow(Bf16ToFloat(got[i]) - Bf16ToFloat(want[i]), 2);
    size += std::pow(Bf16ToFloat(want[i]), 2);
  }
  return std::sqrt(error / size);
}

TEST_P(TokenStepTest, MatchesPlainLoops) {
  if (const absl::Status status = CheckCudaDevice(0); !status.ok()) {
    GTEST_SKIP() << status.message();
  }
  const TokenCase& c = GetParam();
  Rng rng(std::hash<std::string>()(c.name));
  const TokenModel model = RandomTokenModel(rng, c.shape, c.routed, c.position);
  ASSERT_TRUE(TokenStepRuns(model.shape));
  const TokenResult want = TokenStepRef(model);
  TokenDeviceModel device(model);
  const TokenResult got = device.Run();
  EXPECT_EQ(got.chosen, want.chosen);
  const double error = RelativeError(got.residual, want.residual, model.residual);
  EXPECT_LT(error, 1e-3);
  double cache_error = 0;
  for (size_t i = 0; i < got.caches.size(); ++i) {
    cache_error = std::max(cache_error, CacheError(got.caches[i], want.caches[i]));
  }
  EXPECT_LT(cache_error, 1e-2);
  std::printf("%s: error %.2g, cache %.2g\n", c.name.c_str(), error, cache_error);
  const TokenResult again = device.Run();
  EXPECT_EQ(got.residual, again.residual) << "bits differ from run to run";
  EXPECT_EQ(got.caches, again.caches);
}

TokenShape Small() {
  TokenShape s;
  s.hidden = 256;
  s.heads = 4;
  s.kv_heads = 4;
  s.head_dim = 64;
  s.experts = 16;
  s.top_k = 4;
  s.ffn = 96;
  s.dense_ffn = 200;
  return s;
}

std::vector<TokenCase> Cases() {
  std::vector<TokenCase> cases;
  const auto add = [&](std::string name, TokenShape shape, std::vector<bool> routed, int position) {
    cases.push_back({std::move(name), shape, std::move(routed), position});
  };
  add("first_token", Small(), {true, true}, 0);
  add("second_token", Small(), {true, false, true}, 1);
  add("dense_only", Small(), {false, false}, 37);
  TokenShape s = Small();
  s.hidden = 64;
  s.heads = 2;
  s.kv_heads = 1;
  s.ffn = 8;
  s.top_k = 1;
  s.experts = 3;
  s.dense_ffn = 8;
  add("tiny", s, {true, false}, 100);
  s = Small();
  s.hidden = 512;
  s.heads = 16;
  s.head_dim = 128;
  s.qk_norm = TokenQkNorm::kPerHead;
  s.experts = 128;
  s.top_k = 8;
  add("groups_of_4", s, {true, true, true}, 777);
  s.kv_heads = 2;
  s.normalize = false;
  s.page_tokens = 8;
  add("groups_of_8", s, {true, false, true}, 1499);
  s.qk_norm = TokenQkNorm::kFullWidth;
  s.kv_heads = 16;
  s.experts = 500;
  add("full_width", s, {false, true, true}, 511);
  s = Small();
  s.hidden = 2048;
  s.heads = 32;
  s.kv_heads = 4;
  s.head_dim = 128;
  s.qk_norm = TokenQkNorm::kPerHead;
  s.experts = 12;
  s.top_k = 8;
  s.ffn = 768;
  add("wide", s, {true, true}, 512);
  s = Small();
  s.hidden = 4096;
  s.heads = 3;
  s.kv_heads = 3;
  s.dense_ffn = 2000;
  add("many_rows", s, {true, false}, 65);
  s.hidden = 320;
  s.heads = 160;
  s.kv_heads = 20;
  add("many_heads", s, {true}, 33);
  s = Small();
  s.heads = 8;
  s.head_dim = 128;
  s.hidden = 1024;
  s.qk_norm = TokenQkNorm::kPerHead;
  const std::pair<const char*, WeightFormat> formats[] = {
      {"fp8", WeightFormat::kFp8}, {"int8", WeightFormat::kInt8}, {"int4", WeightFormat::kInt4}};
  for (const auto& [name, format] : formats) {
    s.format = format;
    for (const int group : {64, 128}) {
      s.group = group;
      add(std::string(name) + "_" + std::to_string(group), s, {true, false, true}, 200);
    }
  }
  return cases;
}

INSTANTIATE_TEST_SUITE_P(Shapes, TokenStepTest, testing::ValuesIn(Cases()),
                         [](const auto& info) { return info.param.name; });

TEST(TokenStepShape, RefusesWhatItDoesNotServe) {
  TokenShape s = Small();
  s.layers = s.moe_layers = 1;
  s.head_dim = 96;
  EXPECT_FALSE(TokenStepRuns(s));
  s.head_dim = 64;
  s.hidden = 100;
  EXPECT_FALSE(TokenStepRuns(s));
  EXPECT_EQ(TokenStepWorkspaceBytes(s), 0);
}

}  // namespace
}  // namespace conclave
