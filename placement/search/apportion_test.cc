#include "placement/search/apportion.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using Counts = std::vector<int>;

TEST(ApportionTest, WholeCountsFollowTheWeights) {
  EXPECT_EQ(*ApportionWhole({1, 1, 1, 1}, {99, 99, 99, 99}, 8, 0), (Counts{2, 2, 2, 2}));
  EXPECT_EQ(*ApportionWhole({3, 1}, {99, 99}, 8, 0), (Counts{6, 2}));
  // Equal remainders go to the lower index.
  EXPECT_EQ(*ApportionWhole({1, 1, 1}, {99, 99, 99}, 4, 0), (Counts{2, 1, 1}));
  EXPECT_EQ(*ApportionWhole({1, 0}, {99, 99}, 5, 1), (Counts{4, 1}));
}

TEST(ApportionTest, CapsSendTheRestToTheOthers) {
  EXPECT_EQ(*ApportionWhole({3, 1, 1}, {4.9, 99, 99}, 10, 0), (Counts{4, 3, 3}));
  EXPECT_EQ(*ApportionWhole({0, 1}, {99, 2}, 5, 0), (Counts{3, 2}));
  EXPECT_FALSE(ApportionWhole({1, 1}, {2.9, 2.9}, 5, 0).has_value());
  EXPECT_FALSE(ApportionWhole({1, 1}, {0.5, 9}, 5, 1).has_value());
  EXPECT_FALSE(ApportionWhole({1, 1}, {9, 9}, 1, 1).has_value());
}

TEST(ApportionTest, RandomCountsSumAndStayUnderTheirCaps) {
  Rng rng(7);
  int found = 0;
  for (int round = 0; round < 2000; ++round) {
    const int size = 1 + static_cast<int>(rng.Below(8));
    const int total = static_cast<int>(rng.Below(60));
    const int least = static_cast<int>(rng.Below(2));
    std::vector<double> weights, caps;
    int64_t room = 0;
    bool legal = true;
    for (int i = 0; i < size; ++i) {
      weights.push_back(static_cast<double>(rng.Below(100)));
      caps.push_back(static_cast<double>(rng.Below(200)) / 10);
      room += static_cast<int>(caps.back());
      legal = legal && caps.back() >= least;
    }
    legal = legal && room >= total && total >= least * size;
    const auto counts = ApportionWhole(weights, caps, total, least);
    ASSERT_EQ(counts.has_value(), legal) << round;
    if (!legal) continue;
    ++found;
    EXPECT_EQ(std::accumulate(counts->begin(), counts->end(), 0), total);
    for (int i = 0; i < size; ++i) {
      EXPECT_GE((*counts)[i], least);
      EXPECT_LE((*counts)[i], caps[i]);
    }
  }
  EXPECT_GT(found, 300);
}

double Slowest(const std::vector<StageTime>& times, const Counts& layers) {
  double slowest = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    slowest = std::max(slowest, times[i].fixed + layers[i] * times[i].of_layer);
  }
  return slowest;
}

// The least of the slowest stage over every way to cut `total` layers.
double BestByTrying(const std::vector<StageTime>& times, const std::vector<double>& caps,
                    size_t stage, int total, Counts* layers) {
  if (stage + 1 == times.size()) {
    if (total < 1 || total > caps[stage]) return INFINITY;
    layers->push_back(total);
    const double slowest = Slowest(times, *layers);
    layers->pop_back();
    return slowest;
  }
  double best = INFINITY;
  for (int count = 1; count <= std::min<double>(total, caps[stage]); ++count) {
    layers->push_back(count);
    best = std::min(best, BestByTrying(times, caps, stage + 1, total - count, layers));
    layers->pop_back();
  }
  return best;
}

TEST(ApportionTest, LevelLayersIsAsFastAsTheBestCut) {
  Rng rng(11);
  for (int round = 0; round < 200; ++round) {
    std::vector<StageTime> times(1 + rng.Below(4));
    std::vector<double> caps;
    for (StageTime& time : times) {
      time = {.fixed = static_cast<double>(rng.Below(4)), .of_layer = 1.0 + rng.Below(5)};
      caps.push_back(1 + static_cast<double>(rng.Below(12)));
    }
    const int total = static_cast<int>(times.size() + rng.Below(12));
    Counts layers;
    const double best = BestByTrying(times, caps, 0, total, &layers);
    const auto level = LevelLayers(times, caps, total);
    ASSERT_EQ(level.has_value(), std::isfinite(best)) << round;
    if (!level.has_value()) continue;
    EXPECT_EQ(std::accumulate(level->begin(), level->end(), 0), total);
    EXPECT_DOUBLE_EQ(Slowest(times, *level), best) << round;
  }
}

}  // namespace
}  // namespace conclave
