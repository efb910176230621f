#include "placement/plan_summary.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "placement/planner.h"
#include "placement/testing_shapes.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::vector<PlacementWorker> Workers(int count) {
  std::vector<PlacementWorker> workers;
  for (int i = 0; i < count; ++i) {
    workers.push_back({WorkerId{static_cast<uint64_t>(i) + 1}, std::string(1, 'a' + i), "node"});
  }
  return workers;
}

TEST(PlanSummaryTest, SaysWhoHoldsWhat) {
  const auto plan = MakePlan({.shape = TestMoeShape(),
                              .spec = ParallelSpec{.tp = 2, .dp = 2, .slices = 2},
                              .workers = Workers(4)});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto lines = SummarizePlan(TestMoeShape(), *plan, {"a", "b", "c", "d"});
  ASSERT_EQ(lines.size(), 5u);
  EXPECT_THAT(lines[0], HasSubstr("tp=2,dp=2,pp=1,ep=2,slices=2: 4 workers, exchange pcc"));
  EXPECT_THAT(lines[4], HasSubstr("rank 3 (d): layers 0-5, tp 1 of 2 (heads 4-7), dp 1 of 2, "
                                  "experts 8-15/1"));
}

TEST(PlanSummaryTest, DenseModelsHaveNoExpertsToName) {
  const auto plan =
      MakePlan({.shape = TestDenseShape(), .spec = ParallelSpec{.tp = 2}, .workers = Workers(2)});
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto lines = SummarizePlan(TestDenseShape(), *plan, {"a", "b"});
  EXPECT_THAT(lines[1], ::testing::Not(HasSubstr("experts")));
}

TEST(PlanSummaryTest, ExpertsTextRunsAndGaps) {
  ParallelPlan plan;
  plan.experts.layers.push_back(LayerExperts(1, {{0}, {0}, {1}, {0, 1}}));
  EXPECT_EQ(ExpertsText(plan, 0, 0), "0-1,3");
  EXPECT_EQ(ExpertsText(plan, 0, 1), "2-3");
  EXPECT_EQ(ExpertsText(plan, 0, 2), "none");
}

}  // namespace
}  // namespace conclave
