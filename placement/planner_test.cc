#include "placement/planner.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "placement/memory.h"
#include "placement/testing_shapes.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::vector<PlacementWorker> MakeWorkers(int count, int per_node, int64_t memory_bytes = 0) {
  std::vector<PlacementWorker> workers;
  for (int i = 0; i < count; ++i) {
    workers.push_back({WorkerId{static_cast<uint64_t>(i) + 1}, absl::StrCat("w", 10000 + i),
                       absl::StrCat("node", 10000 + i / per_node), memory_bytes});
  }
  return workers;
}

PlacementInput Input(const ModelShape& shape, std::optional<ParallelSpec> spec, int workers) {
  return {.shape = shape, .spec = spec, .workers = MakeWorkers(workers, workers)};
}

TEST(PlannerTest, ObeysAnExplicitSpec) {
  const auto plan = MakePlan(Input(TestMoeShape(), ParallelSpec{.tp = 2, .dp = 2, .pp = 2}, 8));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec.ep, 4);
  EXPECT_EQ(plan->stages, (std::vector<LayerRange>{{0, 3}, {3, 6}}));
  ASSERT_EQ(plan->workers.size(), 8u);
  EXPECT_EQ(plan->workers[3], WorkerId{4});
  ASSERT_EQ(plan->experts.layers.size(), 6u);
  for (const LayerExperts& layer : plan->experts.layers) {
    for (int expert = 0; expert < 16; ++expert) {
      EXPECT_EQ(layer.Owners({expert, 0})[0], expert / 4);
    }
  }
}

TEST(PlannerTest, ExpertSlicesAreNeighbours) {
  const auto plan = MakePlan(Input(TestMoeShape(), ParallelSpec{.tp = 2, .dp = 2, .slices = 2}, 4));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec.ep, 2);
  const LayerExperts& layer = plan->experts.layers[5];
  EXPECT_EQ(layer.Owners({15, 0})[0], 2);
  EXPECT_EQ(layer.Owners({15, 1})[0], 3);
  EXPECT_EQ(layer.UnitsOf(3).size(), 8u);
}

TEST(PlannerTest, UnevenExpertCountsAreLegal) {
  ModelShape shape = TestMoeShape();
  shape.moe.experts = 7;
  const auto plan = MakePlan(Input(shape, ParallelSpec{.dp = 3}, 3));
  ASSERT_TRUE(plan.ok()) << plan.status();
  std::vector<size_t> counts;
  for (int rank = 0; rank < 3; ++rank) {
    counts.push_back(plan->experts.layers[0].UnitsOf(rank).size());
  }
  EXPECT_EQ(counts, (std::vector<size_t>{3, 2, 2}));
}

TEST(PlannerTest, DenseLayersAndDenseModelsHaveNoExperts) {
  ModelShape shape = TestMoeShape();
  shape.dense_layers = {0};
  const auto moe = MakePlan(Input(shape, ParallelSpec{.dp = 2}, 2));
  ASSERT_TRUE(moe.ok());
  EXPECT_EQ(moe->experts.layers[0].experts(), 0);
  EXPECT_EQ(moe->experts.layers[1].experts(), 16);
  const auto dense = MakePlan(Input(TestDenseShape(), ParallelSpec{.tp = 2}, 2));
  ASSERT_TRUE(dense.ok());
  EXPECT_EQ(dense->spec.ep, 0);
  EXPECT_EQ(dense->experts.layers[3].experts(), 0);
}

TEST(PlannerTest, TpGroupsStayOnANode) {
  PlacementInput input = Input(TestMoeShape(), ParallelSpec{.tp = 2, .dp = 3}, 6);
  input.workers = MakeWorkers(6, 3);  // node A: 1 2 3, node B: 4 5 6
  std::reverse(input.workers.begin(), input.workers.end());
  const auto plan = MakePlan(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->workers, (std::vector<WorkerId>{{1}, {2}, {4}, {5}, {3}, {6}}));
}

TEST(PlannerTest, TooFewWorkersSaysHowMany) {
  const auto plan = MakePlan(Input(TestMoeShape(), ParallelSpec{.tp = 4}, 3));
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(plan.status().message(), HasSubstr("start 1 more"));
  EXPECT_EQ(MakePlan(Input(TestMoeShape(), std::nullopt, 0)).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(PlannerTest, BadSpecsAreRefused) {
  const auto status = MakePlan(Input(TestMoeShape(), ParallelSpec{.tp = 3}, 3)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  const auto work = MakePlan(Input(TestMoeShape(), ParallelSpec{.dp = 17}, 17)).status();
  EXPECT_THAT(work.message(), HasSubstr("more workers than work"));
}

TEST(PlannerTest, TwoWorkersWithOneIdAreRefused) {
  PlacementInput input = Input(TestMoeShape(), std::nullopt, 2);
  input.workers[1].id = input.workers[0].id;
  EXPECT_EQ(MakePlan(input).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PlannerTest, ExplicitSpecThatDoesNotFitSaysWhatIsMissing) {
  PlacementInput input = Input(TestMoeShape(), ParallelSpec{.tp = 2}, 2);
  input.workers = MakeWorkers(2, 2, 1000);
  const auto plan = MakePlan(input);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(plan.status().message(), HasSubstr("w10000"));
}

TEST(PlannerTest, AutomaticUsesAllWorkersAndTheWidestTp) {
  const auto plan = MakePlan(Input(TestMoeShape(), std::nullopt, 4));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec, (ParallelSpec{.tp = 4, .ep = 4}));
}

TEST(PlannerTest, AutomaticKeepsTpInsideNodes) {
  PlacementInput input = Input(TestMoeShape(), std::nullopt, 4);
  input.workers = MakeWorkers(4, 2);
  const auto plan = MakePlan(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec, (ParallelSpec{.tp = 2, .dp = 2, .ep = 4}));
}

TEST(PlannerTest, AutomaticLeavesOutWorkersThatHaveNoLegalPlace) {
  // 17 ranks for 16 experts in one stage are too many and 6 layers do not take 17 stages.
  const auto plan = MakePlan(Input(TestMoeShape(), std::nullopt, 17));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec.WorkerCount(), 16);
}

TEST(PlannerTest, AutomaticFollowsTheMemory) {
  // Dense and replicated over dp would not fit; cut over pp it does.
  ModelShape shape = TestDenseShape();
  shape.heads = shape.kv_heads = 3;  // no tp
  PlacementInput input = Input(shape, std::nullopt, 2);
  const auto half = MemoryOfRank(shape, {.pp = 2}, {0, 3}, {}, input.cache.dtype);
  input.workers = MakeWorkers(2, 2, half.weight_bytes + 256 * half.kv_bytes_per_token + 1000);
  const auto plan = MakePlan(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec, (ParallelSpec{.pp = 2}));
  input.workers = MakeWorkers(2, 2, 1000);
  EXPECT_EQ(MakePlan(input).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(PlannerTest, EveryUnitHasAnOwnerInsideTheStage) {
  for (int count = 1; count <= 12; ++count) {
    const auto plan = MakePlan(Input(TestMoeShape(), std::nullopt, count));
    ASSERT_TRUE(plan.ok()) << count << " " << plan.status();
    for (const LayerExperts& layer : plan->experts.layers) {
      for (int expert = 0; expert < 16; ++expert) {
        for (int slice = 0; slice < layer.slices(); ++slice) {
          ASSERT_FALSE(layer.Owners({expert, slice}).empty());
          ASSERT_LT(layer.Owners({expert, slice})[0], plan->spec.StageSize());
        }
      }
    }
  }
}

TEST(PlannerTest, ThousandWorkersThreeThousandExpertsInSeconds) {
  ModelShape shape = TestMoeShape();
  shape.layers = 100;
  shape.moe.experts = 3000;
  shape.heads = shape.kv_heads = 64;
  const absl::Time start = absl::Now();
  PlacementInput input = Input(shape, std::nullopt, 1024);
  input.workers = MakeWorkers(1024, 8, int64_t{1} << 40);
  const auto plan = MakePlan(input);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->spec.WorkerCount(), 1024);
  EXPECT_EQ(plan->spec.tp, 8);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  input.workers = MakeWorkers(1024, 8, 1);  // nothing fits: every grid is looked at
  EXPECT_EQ(MakePlan(input).status().code(), absl::StatusCode::kResourceExhausted);
}

}  // namespace
}  // namespace conclave
