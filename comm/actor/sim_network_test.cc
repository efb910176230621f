#include "comm/actor/sim_network.h"

#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

const absl::Time kStart = absl::FromUnixSeconds(100);

TEST(SimNetworkTest, DelaysStayInBoundsAndInOrder) {
  SimNetwork network({.delay_min = absl::Milliseconds(1), .delay_max = absl::Milliseconds(3)}, 1);
  absl::Time last = absl::InfinitePast();
  for (int i = 0; i < 1000; ++i) {
    const absl::Time now = kStart + absl::Microseconds(10 * i);
    const Deliveries fate = network.Route(now, "a", "b");
    ASSERT_EQ(fate.count, 1);
    EXPECT_GE(fate.at[0], now + absl::Milliseconds(1));
    EXPECT_LE(fate.at[0], now + absl::Milliseconds(3));
    EXPECT_GE(fate.at[0], last);
    last = fate.at[0];
  }
}

TEST(SimNetworkTest, FaultsComeAtTheirRates) {
  NetworkOptions options;
  options.drop_per_mille = 100;
  options.duplicate_per_mille = 200;
  options.reorder_per_mille = 300;
  options.in_flight_max = 1 << 20;
  SimNetwork network(options, 2);
  for (int i = 0; i < 10000; ++i) network.Route(kStart, "a", "b");
  const SimNetwork::Stats& stats = network.stats();
  EXPECT_EQ(stats.sent, 10000u);
  EXPECT_NEAR(stats.dropped, 1000, 150);
  EXPECT_NEAR(stats.duplicated, 1800, 200);
  EXPECT_NEAR(stats.reordered, 2700, 200);
}

TEST(SimNetworkTest, ALinkCanDifferFromTheOthers) {
  SimNetwork network({}, 3);
  network.SetLink("a", "b", {.drop_per_mille = 1000});
  EXPECT_EQ(network.Route(kStart, "a", "b").count, 0);
  EXPECT_EQ(network.Route(kStart, "b", "a").count, 1);
  network.ClearLinks();
  EXPECT_EQ(network.Route(kStart, "a", "b").count, 1);
}

TEST(SimNetworkTest, PartitionsSwallowWhatIsInFlight) {
  SimNetwork network({}, 4);
  ASSERT_EQ(network.Route(kStart, "a", "b").count, 1);
  network.Partition({"a"}, {"b", "c"});
  EXPECT_FALSE(network.Arrived("a", "b"));
  EXPECT_EQ(network.Route(kStart, "c", "a").count, 0);
  EXPECT_EQ(network.Route(kStart, "b", "c").count, 1);
  network.UnblockAll();
  EXPECT_EQ(network.Route(kStart, "a", "c").count, 1);
  EXPECT_TRUE(network.Arrived("a", "c"));
}

TEST(SimNetworkTest, AFullLinkLosesMessages) {
  SimNetwork network({.in_flight_max = 3}, 5);
  int routed = 0;
  for (int i = 0; i < 10; ++i) routed += network.Route(kStart, "a", "b").count;
  EXPECT_EQ(routed, 3);
  EXPECT_EQ(network.stats().overflowed, 7u);
  EXPECT_TRUE(network.Arrived("a", "b"));
  EXPECT_EQ(network.Route(kStart, "a", "b").count, 1);
}

TEST(SimNetworkTest, OneSeedOneFate) {
  const NetworkOptions options = {
      .drop_per_mille = 100, .duplicate_per_mille = 100, .reorder_per_mille = 100};
  SimNetwork first(options, 6);
  SimNetwork second(options, 6);
  for (int i = 0; i < 1000; ++i) {
    const Deliveries a = first.Route(kStart, "a", "b");
    const Deliveries b = second.Route(kStart, "a", "b");
    ASSERT_EQ(a.count, b.count);
    for (int copy = 0; copy < a.count; ++copy) ASSERT_EQ(a.at[copy], b.at[copy]);
  }
}

}  // namespace
}  // namespace conclave
