#include "coordinator/request/expert_loads.h"

#include "absl/strings/match.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

ModelShape Shape() {
  ModelShape shape;
  shape.layers = 3;
  shape.dense_layers = {0};
  shape.moe = {.experts = 4, .top_k = 2, .ffn = 8};
  return shape;
}

StepResult Result(std::vector<ExpertLoad> experts) {
  StepResult result;
  result.experts = std::move(experts);
  return result;
}

TEST(ExpertLoadsTest, RanksAndCopiesAddUpAndSlicesCountOnce) {
  ExpertLoads loads(Shape());
  ASSERT_TRUE(loads.Add(Result({{1, 0, 0, 5}, {1, 0, 1, 5}, {2, 3, 0, 7}})).ok());
  ASSERT_TRUE(loads.Add(Result({{1, 0, 0, 2}})).ok());
  EXPECT_EQ(loads.counts().layers(), 3);
  EXPECT_EQ(loads.counts().experts(), 4);
  EXPECT_EQ(loads.counts().at(1, 0), 7);
  EXPECT_EQ(loads.counts().at(2, 3), 7);
  EXPECT_EQ(loads.counts().at(0, 0), 0);
}

TEST(ExpertLoadsTest, WhatTheModelHasNotIsRefusedWhole) {
  ExpertLoads loads(Shape());
  for (const ExpertLoad& bad :
       {ExpertLoad{3, 0, 0, 1}, ExpertLoad{-1, 0, 0, 1}, ExpertLoad{1, 4, 0, 1},
        ExpertLoad{1, -1, 0, 1}, ExpertLoad{1, 0, 0, -1}}) {
    const absl::Status status = loads.Add(Result({{1, 1, 0, 9}, bad}));
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_TRUE(absl::StrContains(status.message(), "3 layers of 4 experts")) << status;
  }
  EXPECT_EQ(loads.counts().at(1, 1), 0);
  ModelShape dense = Shape();
  dense.moe = {};
  ExpertLoads none(dense);
  EXPECT_TRUE(none.Add(Result({})).ok());
  EXPECT_FALSE(none.Add(Result({{0, 0, 0, 1}})).ok());
}

TEST(ExpertLoadsTest, OldTrafficFadesByHalves) {
  ExpertLoads loads(Shape());
  // 2 MoE layers, top 2: a token makes four choices.
  constexpr int kTokens = 1 << 14;
  ASSERT_TRUE(loads.Add(Result({{1, 0, 0, 2 * kTokens}, {2, 0, 0, 2 * kTokens}})).ok());
  const double before = loads.counts().at(1, 0);
  for (int tokens = 0; tokens < ExpertLoads::kHalfLifeTokens; tokens += kTokens) {
    ASSERT_TRUE(loads.Add(Result({{1, 1, 0, 2 * kTokens}, {2, 1, 0, 2 * kTokens}})).ok());
  }
  EXPECT_NEAR(loads.counts().at(1, 0), before / 2, 1);
  EXPECT_GT(loads.counts().at(1, 1), 40 * loads.counts().at(1, 0));
}

}  // namespace
}  // namespace conclave
