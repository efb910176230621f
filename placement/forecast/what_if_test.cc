#include "placement/forecast/what_if.h"

#include <algorithm>
#include <set>
#include <string>

#include "gtest/gtest.h"
#include "placement/forecast/forecast.h"
#include "placement/forecast/forecast_test_inputs.h"
#include "placement/forecast/spread_map.h"

namespace conclave {
namespace {

TEST(WhatIfTest, WithoutNodeMovesTheOthersUp) {
  ClusterTopology cluster = SmallCluster(3, 4);
  cluster.nodes[1].devices = 2;
  cluster.IndexDevices();
  const auto left = WithoutNode(cluster, 1);
  ASSERT_TRUE(left.ok()) << left.status();
  EXPECT_EQ(left->DeviceCount(), 8);
  ASSERT_EQ(left->nodes.size(), 2u);
  EXPECT_EQ(left->nodes[1].name, "node-2");
  EXPECT_EQ(left->NodeOf(4), 1);
}

TEST(WhatIfTest, WithNodesCopiesNodeAndLinks) {
  const auto grown = WithNodes(SmallCluster(2, 4), 1, 3);
  ASSERT_TRUE(grown.ok()) << grown.status();
  EXPECT_EQ(grown->DeviceCount(), 20);
  std::set<std::string> names;
  std::set<int> domains;
  for (const ClusterNode& node : grown->nodes) {
    names.insert(node.name);
    domains.insert(node.fast_domain);
    EXPECT_EQ(node.network, grown->nodes[0].network);
  }
  EXPECT_EQ(names.size(), 5u);
  EXPECT_EQ(domains.size(), 5u);  // fast links end at the node
  EXPECT_EQ(grown->LinkBetween(8, 11), LinkClass::kFast);
  EXPECT_EQ(grown->LinkBetween(8, 12), LinkClass::kNetwork);
  // Names stay unique when a copy is copied.
  const auto more = WithNodes(*grown, 1, 2);
  ASSERT_TRUE(more.ok());
  for (const ClusterNode& node : more->nodes) names.insert(node.name);
  EXPECT_EQ(names.size(), 7u);
}

TEST(WhatIfTest, DomainsThatSpanNodesAreCopiedWhole) {
  ClusterTopology cluster = SmallCluster(2, 4);
  cluster.nodes[1].fast_domain = 0;
  const auto grown = WithNodes(cluster, 0, 3);
  ASSERT_TRUE(grown.ok());
  EXPECT_EQ(grown->nodes[2].fast_domain, 1);
  EXPECT_EQ(grown->nodes[3].fast_domain, 1);
  EXPECT_EQ(grown->nodes[4].fast_domain, 2);
  cluster.nodes[0].fast_domain = -1;
  EXPECT_EQ(WithNodes(cluster, 0, 1)->nodes[2].fast_domain, -1);
}

TEST(WhatIfTest, NodesOutOfRangeAreRefused) {
  const ClusterTopology cluster = SmallCluster(2, 4);
  for (const int node : {-1, 2}) {
    EXPECT_EQ(WithoutNode(cluster, node).status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_EQ(WithNodes(cluster, node, 1).status().code(), absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(WithNodes(cluster, 0, 0).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(WithoutNode(SmallCluster(1, 4), 0).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(WhatIfTest, RedundantSlotsLowerMakespanAndStepTime) {
  SimulateInput input = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 512);
  input.experts = SyntheticLoad(5, 32, 1.2, 4);
  const double even = Simulate(input)->mean_seconds;
  double before = 1e9;
  double makespan = 1e9;
  for (const int slots : {0, 2}) {
    const auto plan = ReplanExperts(
        {input.model, input.cluster, input.candidate, input.experts, slots, input.maps});
    ASSERT_TRUE(plan.ok()) << plan.status();
    ASSERT_EQ(plan->maps.size(), 5u);
    for (const LayerExperts& map : plan->maps) {
      for (int rank = 0; rank < 8; ++rank) {
        EXPECT_LE(map.UnitsOf(rank).size(), 4u + slots);
      }
    }
    EXPECT_LT(plan->makespan_mean, makespan);
    makespan = plan->makespan_mean;
    SimulateInput planned = input;
    planned.maps = plan->maps;
    const auto result = Simulate(planned);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_LT(result->mean_seconds, std::min(before, even));
    before = result->mean_seconds;
  }
}

TEST(WhatIfTest, StagesAndSlicesArePlannedApart) {
  SimulateInput input = SmallInput(Grid(1, 8, 2, 2), ScheduleKind::kPcc, 64);
  input.experts = SyntheticLoad(5, 32, 1, 4);
  input.maps.assign(5, SpreadMap(input.candidate, 32));
  const auto plan =
      ReplanExperts({input.model, input.cluster, input.candidate, input.experts, 1, input.maps});
  ASSERT_TRUE(plan.ok()) << plan.status();
  ASSERT_EQ(plan->maps.size(), 5u);
  int64_t moved = 0;
  for (size_t layer = 0; layer < 5; ++layer) {
    const LayerExperts& map = plan->maps[layer];
    ASSERT_EQ(map.slices(), 2);
    for (int rank = 0; rank < 8; ++rank) {
      const std::vector<ExpertUnit> had = input.maps[layer].UnitsOf(rank);
      for (const ExpertUnit unit : map.UnitsOf(rank)) {
        EXPECT_EQ(unit.slice, rank % 2);
        moved += std::count(had.begin(), had.end(), unit) == 0;
      }
    }
  }
  EXPECT_EQ(plan->moved_units, moved);
  EXPECT_GT(moved, 0);
  input.maps = plan->maps;
  EXPECT_TRUE(Simulate(input).ok());
}

TEST(WhatIfTest, PlansOfBrokenInputAreRefused) {
  SimulateInput input = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 64);
  const auto code = [&](const LoadProfile& load, int slots) {
    return ReplanExperts({input.model, input.cluster, input.candidate, load, slots, input.maps})
        .status()
        .code();
  };
  EXPECT_EQ(code(LoadProfile(), 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(LoadProfile(4, 32), 1), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code(SyntheticLoad(5, 32, 1, 1), -1), absl::StatusCode::kInvalidArgument);
  // More slots than there are experts to put in: every rank has all.
  EXPECT_EQ(code(SyntheticLoad(5, 32, 1, 1), 1'000'000'000), absl::StatusCode::kOk);
  input.model.experts = 0;
  EXPECT_EQ(code(SyntheticLoad(5, 32, 1, 1), 0), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
