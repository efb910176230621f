#include "coordinator/membership/placement_epoch.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

using Phase = PlacementEpoch::Phase;

const absl::Time kStart = absl::FromUnixSeconds(1000);
constexpr absl::Duration kRepeat = absl::Milliseconds(500);

PlacementEpoch MakeEpoch() {
  ParallelPlan plan;
  plan.epoch = Epoch{3};
  plan.spec = ParallelSpec{.dp = 2};
  plan.workers = {WorkerId{20}, WorkerId{10}};
  return PlacementEpoch(plan, {"a", "b"}, {"n1", "n2"});
}

Prepared PreparedOf(const std::string& address, int pages) {
  Prepared prepared;
  prepared.fabric_address = address;
  prepared.kv_pages = pages;
  return prepared;
}

TEST(PlacementEpochTest, GoesFromLoadingToServing) {
  PlacementEpoch epoch = MakeEpoch();
  EXPECT_EQ(epoch.RankOf(WorkerId{10}), 1);
  EXPECT_EQ(epoch.RankOf(WorkerId{11}), -1);
  EXPECT_EQ(epoch.Progress(), "0 of 2 workers have loaded their weights");
  EXPECT_FALSE(epoch.OnReady(0));  // too early
  EXPECT_FALSE(epoch.OnPrepared(1, PreparedOf("y", 7)));
  EXPECT_FALSE(epoch.OnPrepared(1, PreparedOf("z", 9)));  // a repetition
  EXPECT_TRUE(epoch.OnPrepared(0, PreparedOf("x", 5)));
  EXPECT_EQ(epoch.phase(), Phase::kConnecting);
  EXPECT_EQ(epoch.MakeCommit().fabric_addresses, (std::vector<std::string>{"x", "y"}));
  EXPECT_EQ(epoch.MakeCommit().nodes, (std::vector<std::string>{"n1", "n2"}));
  EXPECT_EQ(epoch.PagesByGroup(), (std::vector<int>{5, 7}));
  EXPECT_FALSE(epoch.OnReady(1));
  EXPECT_FALSE(epoch.OnReady(1));
  EXPECT_EQ(epoch.Progress(), "1 of 2 workers are connected");
  EXPECT_TRUE(epoch.OnReady(0));
  EXPECT_EQ(epoch.phase(), Phase::kServing);
  EXPECT_TRUE(epoch.DueRanks(kStart, kRepeat).empty());
}

TEST(PlacementEpochTest, RepeatsUntilAnswered) {
  PlacementEpoch epoch = MakeEpoch();
  EXPECT_EQ(epoch.DueRanks(kStart, kRepeat), (std::vector<int>{0, 1}));
  EXPECT_TRUE(epoch.DueRanks(kStart + kRepeat / 2, kRepeat).empty());
  epoch.OnPrepared(0, PreparedOf("x", 5));
  EXPECT_EQ(epoch.DueRanks(kStart + kRepeat, kRepeat), (std::vector<int>{1}));
  epoch.OnPrepared(1, PreparedOf("y", 5));
  EXPECT_EQ(epoch.DueRanks(kStart + kRepeat, kRepeat), (std::vector<int>{0, 1}));
}

}  // namespace
}  // namespace conclave
