#include "comm/fabric/wait_graph.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(WaitGraphTest, NobodyIsBlamedWithoutAWait) { EXPECT_THAT(WaitGraph(0).Suspects(), IsEmpty()); }

TEST(WaitGraphTest, ASilentRankIsBlamedOnce) {
  WaitGraph graph(0);
  graph.SetAwaited({5, 2, 5});
  EXPECT_THAT(graph.Suspects(), ElementsAre(2, 5));
}

TEST(WaitGraphTest, BlameFollowsThoseWhoAnswer) {
  WaitGraph graph(0);
  graph.SetAwaited({1});
  graph.Heard(1, {2, 0});
  EXPECT_THAT(graph.Suspects(), ElementsAre(2));
  graph.Heard(2, {7, 1});
  EXPECT_THAT(graph.Suspects(), ElementsAre(7));
}

TEST(WaitGraphTest, OneThatIsAwaitedDirectlyStaysBlamed) {
  WaitGraph graph(3);
  graph.SetAwaited({1, 7});
  graph.Heard(1, {8});
  EXPECT_THAT(graph.Suspects(), ElementsAre(7, 8));
}

TEST(WaitGraphTest, TheLastWordCounts) {
  WaitGraph graph(0);
  graph.SetAwaited({1});
  graph.Heard(1, {2});
  graph.Heard(1, {4});
  EXPECT_THAT(graph.Suspects(), ElementsAre(4));
  EXPECT_TRUE(graph.HeardOf(1));
  EXPECT_THAT(graph.WaitsOf(1), ElementsAre(4));
  EXPECT_FALSE(graph.HeardOf(2));
  EXPECT_THAT(graph.WaitsOf(2), IsEmpty());
}

TEST(WaitGraphTest, RanksThatWaitForOneAnotherAreNamed) {
  WaitGraph graph(0);
  graph.SetAwaited({1, 2});
  graph.Heard(1, {0, 2});
  graph.Heard(2, {1});
  EXPECT_THAT(graph.Suspects(), ElementsAre(1, 2));
}

TEST(WaitGraphTest, TheCallerIsNeverItsOwnSuspect) {
  WaitGraph graph(4);
  graph.SetAwaited({1});
  graph.Heard(1, {4, 6});
  graph.Heard(4, {1});
  EXPECT_THAT(graph.Suspects(), ElementsAre(6));
}

}  // namespace
}  // namespace conclave
