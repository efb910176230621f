#include "kernels/sampling/sampling.h"

#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

std::vector<float> RandomLogits(int64_t count, uint64_t seed, double spread = 10) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>((rng.Uniform() + rng.Uniform() - 1) * spread);
  return values;
}

std::set<int32_t> Support(const std::vector<float>& logits, SamplerOptions options) {
  std::set<int32_t> tokens;
  for (uint64_t seed = 0; seed < 3000; ++seed) {
    options.seed = seed;
    tokens.insert(SampleToken(logits, options, 5).token);
  }
  return tokens;
}

TEST(SampleToken, GreedyTakesTheLargestLowerIdFirst) {
  const SamplerOptions greedy{.temperature = 0};
  EXPECT_EQ(SampleToken({1, 5, 2, 5}, greedy, 0).token, 1);
  const auto logits = RandomLogits(5000, 1);
  const Sample got = SampleToken(logits, greedy, 0), want = SampleTokenRef(logits, greedy, 0);
  EXPECT_EQ(got.token, want.token);
  EXPECT_NEAR(got.logprob, want.logprob, 1e-5);
}

TEST(SampleToken, AgreesWithTheReference) {
  std::vector<SamplerOptions> all = {
      {.temperature = 1},
      {.temperature = 0.7f, .top_k = 40},
      {.temperature = 1.3f, .top_p = 0.9f},
      {.temperature = 0.8f, .top_k = 50, .top_p = 0.95f},
      {.temperature = 1, .min_p = 0.05f},
      {.temperature = 1.5f, .top_k = 20, .top_p = 0.8f, .min_p = 0.02f},
      {.temperature = 5, .top_p = 0.999f},
      {.temperature = 1, .top_k = 1},
      {.temperature = 1, .top_k = 1000000},
      {.temperature = 1, .top_p = 0},
      {.temperature = 1, .min_p = 1},
  };
  int draws = 0, different = 0;
  for (int64_t vocab : {1, 7, 1000, 1024, 5003}) {
    const auto logits = RandomLogits(vocab, vocab);
    for (SamplerOptions options : all) {
      for (int64_t position = 0; position < 40; ++position) {
        options.seed = 1000 + vocab;
        const Sample got = SampleToken(logits, options, position);
        const Sample want = SampleTokenRef(logits, options, position);
        ++draws;
        if (got.token != want.token) {
          ++different;  // a draw at the very border of two tokens
          continue;
        }
        ASSERT_NEAR(got.logprob, want.logprob, 1e-4);
      }
    }
  }
  EXPECT_LE(different, draws / 500);
}

TEST(SampleToken, FrequenciesFollowTheSoftmax) {
  const std::vector<float> logits = {0, std::log(2.0f), std::log(3.0f), std::log(4.0f)};
  std::map<int32_t, int> counts;
  for (int64_t position = 0; position < 20000; ++position) {
    ++counts[SampleToken(logits, {.temperature = 1, .seed = 42}, position).token];
  }
  for (int t = 0; t < 4; ++t) EXPECT_NEAR(counts[t], 2000 * (t + 1), 250) << t;
}

TEST(SampleToken, RestrictionsInOrder) {
  // Probabilities 0.5, 0.25, 0.125, 0.0625, 0.0625.
  const std::vector<float> logits = {std::log(8.f), std::log(4.f), std::log(2.f), 0, 0};
  using Set = std::set<int32_t>;
  EXPECT_EQ(Support(logits, {.temperature = 1}), (Set{0, 1, 2, 3, 4}));
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_k = 2}), (Set{0, 1}));
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_k = 4}), (Set{0, 1, 2, 3}));  // tie: lower id
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_p = 0.7f}), (Set{0, 1}));
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_p = 0.8f}), (Set{0, 1, 2}));
  EXPECT_EQ(Support(logits, {.temperature = 1, .min_p = 0.2f}), (Set{0, 1, 2}));
  // top-p counts what min-p and top-k left: 0.5 of 0.75 is two thirds.
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_k = 2, .top_p = 0.6f}), (Set{0}));
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_p = 0.6f, .min_p = 0.45f}), (Set{0}));
  EXPECT_EQ(Support(logits, {.temperature = 1, .top_p = 1e-6f}), (Set{0}));
}

TEST(SampleToken, SameOnEveryTarget) {
  const auto logits = RandomLogits(50280, 8);
  std::vector<std::pair<int32_t, float>> first;
  ForEachTarget([&](const std::string& target) {
    std::vector<std::pair<int32_t, float>> got;
    for (int64_t position = 0; position < 20; ++position) {
      for (const SamplerOptions& options :
           {SamplerOptions{.temperature = 1, .seed = 3}, SamplerOptions{.temperature = 0},
            SamplerOptions{.temperature = 0.9f, .top_k = 100, .top_p = 0.9f, .seed = 4},
            SamplerOptions{.temperature = 2, .top_p = 0.99f, .seed = 4}}) {
        const Sample sample = SampleToken(logits, options, position);
        got.emplace_back(sample.token, sample.logprob);
      }
    }
    if (first.empty()) first = got;
    EXPECT_EQ(got, first) << target;
  });
}

TEST(SampleToken, AnyLogitsGiveATokenAndAFiniteLogprob) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const std::vector<std::vector<float>> rows = {
      {nan, nan, nan},
      {nan, 1, nan, 1},
      {-inf, -inf},
      {inf, 1, inf},
      {nan, -inf, 3},
      {0},
      {std::numeric_limits<float>::max(), std::numeric_limits<float>::lowest()}};
  const std::vector<int32_t> greedy = {0, 1, 0, 0, 2, 0, 0};
  for (size_t i = 0; i < rows.size(); ++i) {
    EXPECT_EQ(SampleToken(rows[i], {.temperature = 0}, 0).token, greedy[i]) << i;
    for (const SamplerOptions& options :
         {SamplerOptions{.temperature = 1}, SamplerOptions{.temperature = 1, .top_k = 1},
          SamplerOptions{.temperature = 1, .top_p = 0.5f}, SamplerOptions{.temperature = nan},
          SamplerOptions{.temperature = 1, .top_k = 2, .top_p = nan, .min_p = nan},
          SamplerOptions{.temperature = 1e30f}, SamplerOptions{.temperature = 1e-4f}}) {
      const Sample sample = SampleToken(rows[i], options, 3);
      EXPECT_GE(sample.token, 0) << i;
      EXPECT_LT(sample.token, static_cast<int32_t>(rows[i].size())) << i;
      EXPECT_TRUE(std::isfinite(sample.logprob)) << i;
    }
  }
}

}  // namespace
}  // namespace conclave
