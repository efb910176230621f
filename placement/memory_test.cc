#include "placement/memory.h"

#include <numeric>

#include "gtest/gtest.h"
#include "placement/planner.h"
#include "placement/testing_shapes.h"

namespace conclave {
namespace {

ParallelPlan PlanOf(const ModelShape& shape, ParallelSpec spec) {
  ParallelPlan plan;
  plan.spec = ResolveParallelSpec(spec, shape).value();
  plan.stages = SplitLayers(shape.layers, spec.pp);
  return plan;
}

TEST(SplitLayersTest, EarlierStagesGetTheExtra) {
  EXPECT_EQ(SplitLayers(7, 3), (std::vector<LayerRange>{{0, 3}, {3, 5}, {5, 7}}));
  EXPECT_EQ(SplitLayers(4, 4).back(), (LayerRange{3, 4}));
}

TEST(MemoryTest, OneRankHoldsTheWholeModel) {
  for (ModelShape shape : {TestMoeShape(), TestDenseShape()}) {
    const auto ranks = MemoryOfPlan(shape, PlanOf(shape, {}), Dtype::kF32);
    ASSERT_EQ(ranks.size(), 1u);
    // The weights are bf16, the norms float32.
    const int64_t norms_per_layer = 2 * 64 + (shape.qk_norm == QkNorm::kPerHead ? 2 * 8 : 0);
    const int64_t norms = 6 * norms_per_layer + 64;
    EXPECT_EQ(ranks[0].weight_bytes, shape.TotalParameters() * 2 + norms * 2);
    EXPECT_EQ(ranks[0].kv_bytes_per_token, 2 * 4 * 8 * 6 * 4);
  }
}

TEST(MemoryTest, ShardsAddUpToTheModelPlusWhatIsReplicated) {
  const ModelShape shape = TestMoeShape();
  const auto whole = MemoryOfPlan(shape, PlanOf(shape, {}), Dtype::kF32)[0];
  const auto ranks = MemoryOfPlan(shape, PlanOf(shape, {.tp = 4}), Dtype::kF32);
  int64_t sum = 0;
  for (const RankMemory& rank : ranks) sum += rank.weight_bytes;
  const int64_t norms = (6 * (2 * 64 + 2 * 8) + 64) * 4;
  const int64_t routers = 6 * 64 * 16 * 2;
  EXPECT_EQ(sum, whole.weight_bytes + 3 * (norms + routers));
  EXPECT_EQ(ranks[0].kv_bytes_per_token * 4, whole.kv_bytes_per_token);
}

TEST(MemoryTest, KvHeadsAreCopiedWhenTpIsWider) {
  EXPECT_EQ(KvHeadsOfRank(TestMoeShape(), 8), 1);
  EXPECT_EQ(KvHeadsOfRank(TestMoeShape(), 2), 2);
}

TEST(MemoryTest, UnevenExpertsFollowTheMap) {
  ModelShape shape = TestMoeShape();
  shape.moe.experts = 5;
  const ParallelPlan plan = PlanOf(shape, {.dp = 3});
  const ExpertMap map = SpreadExperts(shape, plan.spec);
  const auto ranks = MemoryOfPlan(shape, plan, Dtype::kF32);
  const int64_t base = ranks[2].weight_bytes;
  for (int rank = 0; rank < 3; ++rank) {
    const int64_t more = map.layers[0].UnitsOf(rank).size() - map.layers[0].UnitsOf(2).size();
    EXPECT_EQ(ranks[rank].weight_bytes - base, more * shape.ExpertParameters() * 2 * shape.layers);
  }
}

TEST(MemoryTest, TiedHeadIsCopiedToTheLastStage) {
  ModelShape shape = TestMoeShape();
  shape.tied_embeddings = true;
  const int64_t table = shape.vocab * shape.hidden * 2;
  const auto one = MemoryOfPlan(shape, PlanOf(shape, {}), Dtype::kF32);
  const auto two = MemoryOfPlan(shape, PlanOf(shape, {.pp = 2}), Dtype::kF32);
  EXPECT_EQ(two[0].weight_bytes + two[1].weight_bytes, one[0].weight_bytes + table);
}

}  // namespace
}  // namespace conclave
