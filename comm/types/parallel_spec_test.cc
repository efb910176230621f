#include "comm/types/parallel_spec.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

ModelShape MoeShape() {
  ModelShape shape;
  shape.architecture = Architecture::kQwen3Moe;
  shape.layers = 6;
  shape.hidden = 64;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.ffn = 128;
  shape.vocab = 100;
  shape.moe = {.experts = 6, .top_k = 2, .ffn = 24};
  return shape;
}

ModelShape DenseShape() {
  ModelShape shape = MoeShape();
  shape.architecture = Architecture::kLlama;
  shape.moe = {};
  return shape;
}

// The message of the refusal.
std::string Refusal(ParallelSpec spec, const ModelShape& shape) {
  const auto resolved = ResolveParallelSpec(spec, shape);
  EXPECT_EQ(resolved.status().code(), absl::StatusCode::kInvalidArgument) << spec;
  return std::string(resolved.status().message());
}

TEST(ParallelSpecTest, RanksAndPositionsAreInverse) {
  const ParallelSpec spec{.tp = 2, .dp = 3, .pp = 4};
  EXPECT_EQ(spec.WorkerCount(), 24);
  for (int rank = 0; rank < spec.WorkerCount(); ++rank) {
    const GridPosition at = spec.PositionOf(rank);
    EXPECT_EQ(spec.RankOf(at), rank);
    EXPECT_EQ(spec.StageRankOf(at), rank % spec.StageSize());
  }
}

TEST(ParallelSpecTest, ParsesAndPrints) {
  const auto spec = ParseParallelSpec("tp=2, dp=4,pp=1,ep=4,slices=2");
  ASSERT_TRUE(spec.ok()) << spec.status();
  EXPECT_EQ(*spec, (ParallelSpec{.tp = 2, .dp = 4, .pp = 1, .slices = 2, .ep = 4}));
  EXPECT_EQ(spec->ToString(), "tp=2,dp=4,pp=1,ep=4,slices=2");
  EXPECT_EQ(ParseParallelSpec("").value(), ParallelSpec{});
  EXPECT_EQ(ParseParallelSpec("pp=3").value().ToString(), "tp=1,dp=1,pp=3");
}

TEST(ParallelSpecTest, RefusesBadText) {
  for (const char* text : {"tp", "tp=", "tp=x", "tp=0", "tp=-1", "tp=2.5", "tp=99999999999", "cp=2",
                           "tp=2,tp=2", "tp=65536,dp=2", "=2", "tp=2;dp=2"}) {
    const auto spec = ParseParallelSpec(text);
    EXPECT_EQ(spec.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(spec.status().message()), HasSubstr("--parallel")) << text;
  }
  EXPECT_THAT(std::string(ParseParallelSpec("cp=2").status().message()), HasSubstr("'cp'"));
}

TEST(ParallelSpecTest, ResolvesExpertGroups) {
  EXPECT_EQ(ResolveParallelSpec({.tp = 2, .dp = 2}, MoeShape()).value().ep, 4);
  EXPECT_EQ(ResolveParallelSpec({.tp = 2, .dp = 2, .slices = 2}, MoeShape()).value().ep, 2);
  EXPECT_EQ(ResolveParallelSpec({.dp = 2, .ep = 2}, MoeShape()).value().ep, 2);
  // 6 experts over 4 groups: uneven counts are legal.
  EXPECT_EQ(ResolveParallelSpec({.dp = 4}, MoeShape()).value().ep, 4);
}

TEST(ParallelSpecTest, RefusesIndivisibleDegrees) {
  EXPECT_THAT(Refusal({.tp = 3}, MoeShape()), HasSubstr("one of 1, 2, 4, 8"));
  EXPECT_THAT(Refusal({.tp = 16}, MoeShape()), HasSubstr("one of 1, 2, 4, 8"));
  EXPECT_THAT(Refusal({.tp = 8}, MoeShape()), HasSubstr("attention heads of 4"));
  ModelShape odd = MoeShape();
  odd.heads = 12;
  odd.kv_heads = 3;
  EXPECT_THAT(Refusal({.tp = 2}, odd), HasSubstr("kv heads"));
  ModelShape full_width = MoeShape();
  full_width.qk_norm = QkNorm::kFullWidth;
  EXPECT_THAT(Refusal({.tp = 4}, full_width), HasSubstr("normalizes keys"));
  ModelShape dense = DenseShape();
  dense.ffn = 130;
  EXPECT_THAT(Refusal({.tp = 4}, dense), HasSubstr("intermediate size of 130"));
  ModelShape narrow = MoeShape();
  narrow.moe.ffn = 25;
  EXPECT_THAT(Refusal({.tp = 2, .slices = 2}, narrow), HasSubstr("expert intermediate size"));
  EXPECT_THAT(Refusal({.tp = 2, .slices = 3}, MoeShape()), HasSubstr("slices=3"));
  EXPECT_THAT(Refusal({.dp = 3, .slices = 2}, MoeShape()), HasSubstr("3 workers of a stage"));
}

TEST(ParallelSpecTest, RefusesMoreWorkersThanWork) {
  EXPECT_THAT(Refusal({.pp = 7}, MoeShape()), HasSubstr("more workers than work"));
  EXPECT_THAT(Refusal({.dp = 7}, MoeShape()), HasSubstr("more workers than work"));
  EXPECT_TRUE(ResolveParallelSpec({.pp = 6}, MoeShape()).ok());
  EXPECT_TRUE(ResolveParallelSpec({.dp = 6}, MoeShape()).ok());
}

TEST(ParallelSpecTest, RefusesContradictions) {
  EXPECT_THAT(Refusal({.dp = 2, .ep = 3}, MoeShape()), HasSubstr("contradicts"));
  EXPECT_THAT(Refusal({.tp = 2, .slices = 2, .ep = 2}, MoeShape()), HasSubstr("set it to 1"));
}

TEST(ParallelSpecTest, DenseModelsHaveNoExpertParallelism) {
  EXPECT_EQ(ResolveParallelSpec({.dp = 2, .ep = 2}, DenseShape()).value().ep, 0);
  EXPECT_THAT(EpNote({.dp = 2, .ep = 2}, DenseShape()), HasSubstr("ep=2 does not apply"));
  EXPECT_EQ(EpNote({.dp = 2, .ep = 2}, MoeShape()), "");
  EXPECT_THAT(Refusal({.dp = 2, .slices = 2}, DenseShape()), HasSubstr("slices=2 does not apply"));
  EXPECT_EQ(ResolveParallelSpec({.dp = 2, .ep = 1}, DenseShape()).value().ep, 0);
}

}  // namespace
}  // namespace conclave
