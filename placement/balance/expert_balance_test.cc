#include "placement/balance/expert_balance.h"

#include <cmath>
#include <iostream>
#include <limits>

#include "gtest/gtest.h"
#include "placement/balance/balance_oracle.h"
#include "placement/balance/balance_test_loads.h"
#include "placement/balance/eplb_heuristic.h"

namespace conclave {
namespace {

BalanceResult Balance(const LoadProfile& load, const std::vector<BalanceRank>& ranks,
                      const ExpertMap& current = {}) {
  const auto result = BalanceExperts(load, ranks, current, {});
  EXPECT_TRUE(result.ok()) << result.status().message();
  return *result;
}

void ExpectValid(const BalanceResult& result, const std::vector<BalanceRank>& ranks) {
  for (const LayerExperts& layer : result.map.layers) {
    for (size_t rank = 0; rank < ranks.size(); ++rank) {
      const std::vector<ExpertUnit> units = layer.UnitsOf(static_cast<int>(rank));
      EXPECT_LE(static_cast<int>(units.size()), ranks[rank].slots);
    }
    for (int expert = 0; expert < layer.experts(); ++expert) {
      const auto owners = layer.Owners({expert, 0});
      ASSERT_GE(owners.size(), 1u);
      for (size_t i = 1; i < owners.size(); ++i) EXPECT_LT(owners[i - 1], owners[i]);
    }
  }
}

TEST(ExpertBalanceTest, SmallInstancesAreWithinTwoPercentOfOptimal) {
  double worst = 1;
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const SmallInstance instance = DrawSmallInstance(seed);
    const BalanceResult ours = Balance(instance.load, instance.ranks);
    ExpectValid(ours, instance.ranks);
    const auto optimal = SolveExactly(instance.load, 0, instance.ranks, 0x7fffffff, 3);
    ASSERT_TRUE(optimal.ok()) << optimal.status().message();
    const double makespan = LayerMakespan(instance.load, 0, ours.map.layers[0], instance.ranks);
    EXPECT_LE(makespan, 1.02 * optimal->makespan) << "seed " << seed;
    EXPECT_GE(makespan, optimal->bound * (1 - 1e-6)) << "seed " << seed;
    worst = std::max(worst, makespan / optimal->makespan);
  }
  std::cout << "worst of 20: " << worst << " x optimal\n";
}

// 16 layers of 384 experts on 1,024 ranks; all 61 are a benchmark's.
TEST(ExpertBalanceTest, NoWorseThanEplbAndFewerMovesAfterADrift) {
  constexpr int kLayers = 16, kExperts = 384, kRanks = 1024;
  const LoadProfile load = SkewedLoad(kLayers, kExperts, 1.0, 7);
  const std::vector<BalanceRank> ranks = EvenRanks(kRanks, 1, 8);
  const BalanceResult first = Balance(load, ranks);
  ExpectValid(first, ranks);
  const LoadProfile later = Drifted(load, 0.1, 8);
  const BalanceResult second = Balance(later, ranks, first.map);
  ExpectValid(second, ranks);
  int64_t eplb_moved = 0;
  for (int layer = 0; layer < kLayers; ++layer) {
    const EplbShape shape = {kRanks, 1, 1, 1};
    const EplbLayer before = EplbGlobal(load, layer, shape);
    const EplbLayer after = EplbGlobal(later, layer, shape);
    eplb_moved += EplbMoved(before, after);
    EXPECT_LE(LayerMakespan(load, layer, first.map.layers[layer], ranks),
              EplbMakespan(load, layer, before) * (1 + 1e-9));
    EXPECT_LE(LayerMakespan(later, layer, second.map.layers[layer], ranks),
              EplbMakespan(later, layer, after) * (1 + 0.011));
  }
  std::cout << "moved after the drift: " << second.moved_units << ", EPLB " << eplb_moved << "\n";
  EXPECT_LE(3 * second.moved_units, eplb_moved);
}

TEST(ExpertBalanceTest, WhatIsAsGoodAsItGetsStays) {
  const LoadProfile load = SkewedLoad(3, 32, 0.8, 3);
  const std::vector<BalanceRank> ranks = EvenRanks(8, 6, 4);
  const BalanceResult first = Balance(load, ranks);
  EXPECT_EQ(Balance(load, ranks, first.map).moved_units, 0);
}

TEST(ExpertBalanceTest, EqualInputsGiveEqualMaps) {
  const LoadProfile load = SkewedLoad(4, 64, 1.2, 5);
  const std::vector<BalanceRank> ranks = EvenRanks(16, 5, 4);
  EXPECT_EQ(Balance(load, ranks).map, Balance(load, ranks).map);
}

TEST(ExpertBalanceTest, BadInputIsRefused) {
  LoadProfile load = SkewedLoad(1, 8, 1, 1);
  const auto code = [](const LoadProfile& profile, const std::vector<BalanceRank>& ranks) {
    return BalanceExperts(profile, ranks, {}, {}).status().code();
  };
  EXPECT_EQ(code(load, EvenRanks(2, 3, 2)), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(load, {}), absl::StatusCode::kInvalidArgument);
  load.Add(0, 3, -1e9);
  EXPECT_EQ(code(load, EvenRanks(4, 4, 4)), absl::StatusCode::kInvalidArgument);
  LoadProfile infinite(1, 8);
  infinite.Add(0, 0, std::numeric_limits<double>::infinity());
  EXPECT_EQ(code(infinite, EvenRanks(4, 4, 4)), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
