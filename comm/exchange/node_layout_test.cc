#include "comm/exchange/node_layout.h"

#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(NodeLayoutTest, NamesBecomeNumbersInOrderOfAppearance) {
  EXPECT_EQ(NumberNodes(std::vector<std::string>{"b", "a", "b", "", "a"}),
            (RankNodes{0, 1, 0, 2, 1}));
  EXPECT_TRUE(NumberNodes({}).empty());
}

TEST(NodeLayoutTest, LeadersStandAtTheSendersPosition) {
  const NodeLayout layout({7, 7, 7, 3, 3, 9});  // nodes 3, 7, 9 of 2, 3 and 1 ranks
  ASSERT_EQ(layout.nodes(), 3);
  EXPECT_EQ(layout.RanksOf(0), (std::vector<int32_t>{3, 4}));
  EXPECT_EQ(layout.NodeOf(5), 2);
  EXPECT_EQ(layout.PositionOf(2), 2);
  EXPECT_EQ(layout.LeaderOf(2, 0), 3);  // position 2 of node 7 wraps on node 3
  EXPECT_EQ(layout.LeaderOf(1, 0), 4);
  EXPECT_EQ(layout.LeaderOf(4, 2), 5);
  EXPECT_FALSE(layout.Leads(2)) << "the other nodes have no third rank";
}

TEST(NodeLayoutTest, LeadsIsWhatSomeRankFinds) {
  Rng rng(1);
  for (int round = 0; round < 200; ++round) {
    RankNodes nodes(1 + rng.Below(12));
    for (int& node : nodes) node = static_cast<int>(rng.Below(4));
    const NodeLayout layout(nodes);
    std::vector<bool> leads(nodes.size(), false);
    for (int from = 0; from < layout.ranks(); ++from) {
      for (int node = 0; node < layout.nodes(); ++node) {
        if (node != layout.NodeOf(from)) leads[layout.LeaderOf(from, node)] = true;
      }
    }
    for (int rank = 0; rank < layout.ranks(); ++rank) {
      ASSERT_EQ(layout.Leads(rank), leads[rank]) << "round " << round << " rank " << rank;
    }
  }
}

}  // namespace
}  // namespace conclave
