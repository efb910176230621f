#include "placement/search/device_order.h"

#include <set>

#include "gtest/gtest.h"

namespace conclave {
namespace {

ClusterTopology Cluster(const char* spec) { return *BuiltinCluster(spec); }

DeviceOrder OnlyOrder(const char* spec, int tp) {
  const ClusterTopology cluster = Cluster(spec);
  const std::vector<DeviceOrder> orders = DeviceOrders(cluster, DeviceKinds(cluster), tp);
  EXPECT_EQ(orders.size(), 1u);
  return orders[0];
}

TEST(DeviceOrderTest, GroupsStayInsideNodesOfUnevenSize) {
  const ClusterTopology cluster = Cluster("h200:21");  // 8 + 8 + 5
  for (const int tp : {1, 2, 4}) {
    for (const DeviceOrder& order : DeviceOrders(cluster, DeviceKinds(cluster), tp)) {
      for (const std::vector<int>& group : order.groups) {
        for (const int device : group) {
          EXPECT_EQ(cluster.NodeOf(device), cluster.NodeOf(group[0])) << "tp " << tp;
        }
      }
      EXPECT_EQ(static_cast<int>(order.groups.size()), tp == 1 ? 21 : tp == 2 ? 10 : 5);
    }
  }
}

TEST(DeviceOrderTest, WhatNodesHaveLeftOverMakesGroupsThatComeLast) {
  ClusterTopology cluster = Cluster("h200:24");
  for (ClusterNode& node : cluster.nodes) node.devices = 6;
  cluster.IndexDevices();
  const auto orders = DeviceOrders(cluster, DeviceKinds(cluster), 4);
  ASSERT_EQ(orders.size(), 1u);
  EXPECT_EQ(orders[0].groups, (std::vector<std::vector<int>>{
                                  {0, 1, 2, 3}, {6, 7, 8, 9}, {12, 13, 14, 15}, {4, 5, 10, 11}}));
}

TEST(DeviceOrderTest, GroupsWiderThanANodeTakeWholeNodes) {
  const DeviceOrder order = OnlyOrder("h200:32", 16);
  ASSERT_EQ(order.groups.size(), 2u);
  EXPECT_EQ(order.groups[0].front(), 0);
  EXPECT_EQ(order.groups[0].back(), 15);
}

TEST(DeviceOrderTest, AFastDomainOfManyNodesIsOneIsland) {
  const ClusterTopology cluster = Cluster("gb200-nvl72:72");
  const DeviceOrder order = OnlyOrder("gb200-nvl72:72", 8);
  EXPECT_EQ(order.groups.size(), 9u);
  for (const std::vector<int>& group : order.groups) {
    EXPECT_EQ(cluster.LinkBetween(group.front(), group.back()), LinkClass::kFast);
  }
}

TEST(DeviceOrderTest, KindsAreNumberedBySpeedAndEachComesInFrontOnce) {
  const ClusterTopology cluster = Cluster("a100-80g:8,h200:16");
  const std::vector<int> kinds = DeviceKinds(cluster);
  EXPECT_EQ(kinds[0], 1);   // A100
  EXPECT_EQ(kinds[23], 0);  // H200
  const auto orders = DeviceOrders(cluster, kinds, 4);
  ASSERT_EQ(orders.size(), 2u);
  EXPECT_EQ(orders[0].kinds, (std::vector<int>{0, 0, 0, 0, 1, 1}));
  EXPECT_EQ(orders[1].kinds, (std::vector<int>{1, 1, 0, 0, 0, 0}));
}

TEST(DeviceOrderTest, MixedStagesHoldTheirPartOfEveryKind) {
  const ClusterTopology cluster = Cluster("h200:16,a100-80g:8");
  const std::vector<int> kinds = DeviceKinds(cluster);
  const DeviceOrder order = DeviceOrders(cluster, kinds, 2)[0];
  const ParallelSpec spec{.tp = 2, .dp = 6, .pp = 2};
  const std::vector<int> devices = MixedRankDevices(order, spec);
  ASSERT_EQ(devices.size(), 24u);
  EXPECT_EQ(std::set<int>(devices.begin(), devices.end()).size(), 24u);
  for (int stage = 0; stage < 2; ++stage) {
    int fast = 0;
    for (int r = 0; r < 12; ++r) fast += kinds[devices[stage * 12 + r]] == 0;
    EXPECT_EQ(fast, 8) << "stage " << stage;
  }
  // Three stages of one kind each: eight groups of the one, four of the other.
  EXPECT_TRUE(MixedRankDevices(order, {.tp = 2, .dp = 4, .pp = 3}).empty());
  const std::vector<int> by_kind = RankDevices(order, {.tp = 2, .dp = 4, .pp = 3});
  for (int r = 0; r < 24; ++r) EXPECT_EQ(kinds[by_kind[r]], r < 16 ? 0 : 1);
}

}  // namespace
}  // namespace conclave
