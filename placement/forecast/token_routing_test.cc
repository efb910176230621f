#include "placement/forecast/token_routing.h"

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "gtest/gtest.h"
#include "placement/forecast/forecast.h"

namespace conclave {
namespace {

std::vector<int32_t> DrawFrom(const std::vector<double>& weights, int64_t tokens, int top_k) {
  Rng rng(5);
  std::vector<int32_t> chosen;
  ExpertSampler(weights).Draw(tokens, top_k, rng, chosen);
  return chosen;
}

TEST(ExpertSamplerTest, OneChoiceFollowsTheWeights) {
  const std::vector<double> weights = {1, 2, 3, 4, 0, 10};
  std::vector<double> counts(6);
  for (const int32_t expert : DrawFrom(weights, 200'000, 1)) ++counts[expert];
  for (int expert = 0; expert < 6; ++expert) {
    const double share = weights[expert] / 20;
    // Five standard deviations.
    EXPECT_NEAR(counts[expert] / 2e5, share, 5 * std::sqrt(share * (1 - share) / 2e5) + 1e-12);
  }
}

TEST(ExpertSamplerTest, ChoicesOfATokenDiffer) {
  for (const int top_k : {1, 2, 7, 8}) {
    const std::vector<int32_t> chosen = DrawFrom({9, 1, 1, 1, 1, 1, 1, 0.001}, 500, top_k);
    ASSERT_EQ(chosen.size(), 500u * top_k);
    for (size_t token = 0; token < 500; ++token) {
      const auto first = chosen.begin() + static_cast<ptrdiff_t>(token) * top_k;
      ASSERT_EQ(std::set<int32_t>(first, first + top_k).size(), static_cast<size_t>(top_k));
    }
  }
}

// Without replacement: P(second | first) is the rest's weights made to sum to 1.
TEST(ExpertSamplerTest, TheSecondChoiceFollowsTheRest) {
  const std::vector<int32_t> chosen = DrawFrom({6, 3, 1}, 200'000, 2);
  double first_zero = 0;
  double then_one = 0;
  for (size_t i = 0; i < chosen.size(); i += 2) {
    first_zero += chosen[i] == 0;
    then_one += chosen[i] == 0 && chosen[i + 1] == 1;
  }
  EXPECT_NEAR(then_one / first_zero, 0.75, 0.01);
}

// So uneven that rejection alone would not end.
TEST(ExpertSamplerTest, RareExpertsAreFoundByAScan) {
  const std::vector<int32_t> chosen = DrawFrom({1, 1e-300, 3e-300, 0}, 4000, 2);
  double ones = 0;
  for (size_t i = 0; i < chosen.size(); i += 2) {
    EXPECT_EQ(chosen[i], 0);
    EXPECT_NE(chosen[i + 1], 3);
    ones += chosen[i + 1] == 1;
  }
  EXPECT_NEAR(ones / 4000, 0.25, 0.04);
}

TEST(ExpertSamplerTest, ExpertsWithoutWeightComeLast) {
  std::set<int32_t> last;
  const std::vector<int32_t> chosen = DrawFrom({0, 5, 0, 5}, 200, 3);
  for (size_t i = 0; i < chosen.size(); i += 3) {
    EXPECT_EQ(chosen[i] % 2, 1);
    EXPECT_EQ(chosen[i + 1] % 2, 1);
    last.insert(chosen[i + 2]);
  }
  EXPECT_EQ(last, (std::set<int32_t>{0, 2}));
}

TEST(ExpertSamplerTest, ExtremeWeightsAreWeights) {
  const double huge = std::numeric_limits<double>::max();
  std::vector<int> counts(3);
  for (const int32_t expert : DrawFrom({huge, huge, 0}, 1000, 1)) ++counts[expert];
  EXPECT_NEAR(counts[0], 500, 80);
  EXPECT_EQ(counts[2], 0);
  // Nothing at all: uniform.
  std::vector<int> uniform(4);
  for (const int32_t expert : DrawFrom({0, 0, 0, 0}, 4000, 1)) ++uniform[expert];
  for (const int count : uniform) EXPECT_NEAR(count, 1000, 150);
}

TEST(SamplersOfTest, OneForEachLayerOrOneForAll) {
  EXPECT_EQ(SamplersOf(LoadProfile(), 8).size(), 1u);
  EXPECT_EQ(SamplersOf(LoadProfile(3, 8), 8).size(), 3u);
}

TEST(SplitTokensTest, WholeTokensThatAddUp) {
  EXPECT_EQ(SplitTokens(10, {0.25, 0.25, 0.25, 0.25}), (std::vector<int64_t>{3, 3, 2, 2}));
  EXPECT_EQ(SplitTokens(8, {0.5, 0.125, 0.375}), (std::vector<int64_t>{4, 1, 3}));
  EXPECT_EQ(SplitTokens(0.2, {0.5, 0.5}), (std::vector<int64_t>{1, 0}));
  EXPECT_EQ(SplitTokens(7, {0, 1}), (std::vector<int64_t>{0, 7}));
  Rng rng(1);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<double> shares;
    for (uint64_t d = 0; d <= rng.Below(20); ++d) shares.push_back(rng.Uniform() + 1e-3);
    const int64_t tokens = 1 + static_cast<int64_t>(rng.Below(1000));
    const std::vector<int64_t> split = SplitTokens(static_cast<double>(tokens), shares);
    EXPECT_EQ(std::accumulate(split.begin(), split.end(), int64_t{0}), tokens);
  }
}

TEST(SyntheticLoadTest, IsAZipfLawPermutedByLayer) {
  const LoadProfile load = SyntheticLoad(4, 16, 1.0, 7);
  double harmonic = 0;
  for (int i = 1; i <= 16; ++i) harmonic += 1.0 / i;
  std::set<int> hottest;
  for (int layer = 0; layer < 4; ++layer) {
    std::multiset<double, std::greater<>> sorted;
    int top = 0;
    double sum = 0;
    for (int expert = 0; expert < 16; ++expert) {
      sorted.insert(load.at(layer, expert));
      sum += load.at(layer, expert);
      if (load.at(layer, expert) > load.at(layer, top)) top = expert;
    }
    hottest.insert(top);
    EXPECT_NEAR(sum, 1, 1e-12);
    int rank = 1;
    for (const double count : sorted) EXPECT_NEAR(count, 1 / (rank++ * harmonic), 1e-12);
  }
  EXPECT_GT(hottest.size(), 1u);
  EXPECT_EQ(load, SyntheticLoad(4, 16, 1.0, 7));
  EXPECT_FALSE(load == SyntheticLoad(4, 16, 1.0, 8));
}

TEST(SyntheticLoadTest, OddArgumentsDoNoHarm) {
  EXPECT_EQ(SyntheticLoad(0, 16, 1, 1).layers(), 0);
  EXPECT_EQ(SyntheticLoad(2, -1, 1, 1).layers(), 0);
  EXPECT_DOUBLE_EQ(SyntheticLoad(1, 4, 0, 1).at(0, 3), 0.25);
  EXPECT_DOUBLE_EQ(SyntheticLoad(1, 4, std::nan(""), 1).at(0, 3), 0.25);
  EXPECT_DOUBLE_EQ(SyntheticLoad(1, 4, -2, 1).at(0, 3), 0.25);
}

}  // namespace
}  // namespace conclave
