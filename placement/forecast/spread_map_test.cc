#include "placement/forecast/spread_map.h"

#include <numeric>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "placement/forecast/forecast_test_inputs.h"

namespace conclave {
namespace {

TEST(SpreadMapTest, EvenSharesPutNeighboursTogether) {
  const Candidate candidate = SmallInput(Grid(1, 4), ScheduleKind::kPcc, 1).candidate;
  EXPECT_EQ(ExpertsOfGroups(candidate, 32), (std::vector<int>{8, 8, 8, 8}));
  const LayerExperts map = SpreadMap(candidate, 32);
  for (int expert = 0; expert < 32; ++expert) {
    ASSERT_EQ(map.Owners({expert, 0}).size(), 1u);
    EXPECT_EQ(map.Owners({expert, 0})[0], expert / 8);
  }
}

TEST(SpreadMapTest, SlicesGoToTheRanksOfAGroup) {
  const Candidate candidate = SmallInput(Grid(2, 4, 1, 4), ScheduleKind::kPcc, 1).candidate;
  const LayerExperts map = SpreadMap(candidate, 6);
  ASSERT_EQ(map.slices(), 4);
  for (int slice = 0; slice < 4; ++slice) {
    EXPECT_EQ(map.Owners({0, slice})[0], slice);
    EXPECT_EQ(map.Owners({5, slice})[0], 4 + slice);
  }
}

TEST(SpreadMapTest, UnevenSharesAndExtraCopies) {
  Candidate candidate = SmallInput(Grid(1, 4), ScheduleKind::kPcc, 1).candidate;
  candidate.expert_shares = {0.5, 0.25, 0.125, 0.125};
  EXPECT_EQ(ExpertsOfGroups(candidate, 32), (std::vector<int>{16, 8, 4, 4}));
  candidate.expert_shares = {1, 1, 1, 1};  // everything everywhere
  EXPECT_EQ(ExpertsOfGroups(candidate, 32), (std::vector<int>{32, 32, 32, 32}));
  EXPECT_EQ(SpreadMap(candidate, 32).Owners({7, 0}).size(), 4u);
  candidate.expert_shares = {0, 0, 0, 0};
  EXPECT_EQ(ExpertsOfGroups(candidate, 32), (std::vector<int>{8, 8, 8, 8}));
  candidate.expert_shares = {5, 0, 0, 0};  // a share above 1 is capped
  EXPECT_EQ(ExpertsOfGroups(candidate, 32), (std::vector<int>{32, 0, 0, 0}));
}

TEST(SpreadMapTest, RandomSharesCoverEveryExpertWithoutTwins) {
  Rng rng(3);
  for (int trial = 0; trial < 300; ++trial) {
    const int dp = 1 + static_cast<int>(rng.Below(12));
    Candidate candidate = SmallInput(Grid(1, dp), ScheduleKind::kPcc, 1).candidate;
    const double sum = 1 + rng.Uniform() * static_cast<double>(rng.Below(2));
    double drawn = 0;
    for (double& share : candidate.expert_shares) drawn += share = rng.Uniform() + 0.01;
    for (double& share : candidate.expert_shares) share *= sum / drawn;
    const int experts = 1 + static_cast<int>(rng.Below(40));
    const std::vector<int> counts = ExpertsOfGroups(candidate, experts);
    ASSERT_GE(std::accumulate(counts.begin(), counts.end(), 0), experts);
    const LayerExperts map = SpreadMap(candidate, experts);
    for (int expert = 0; expert < experts; ++expert) {
      const auto owners = map.Owners({expert, 0});
      ASSERT_GE(owners.size(), 1u);
      for (size_t i = 1; i < owners.size(); ++i) ASSERT_LT(owners[i - 1], owners[i]);
    }
    for (int rank = 0; rank < dp; ++rank) {
      ASSERT_EQ(static_cast<int>(map.UnitsOf(rank).size()), counts[rank]);
    }
  }
}

}  // namespace
}  // namespace conclave
