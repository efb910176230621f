#include "placement/search/search.h"

#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

SearchInput Ask(const std::string& model, const std::string& cluster,
                Objective objective = Objective::kLatency) {
  SearchInput input;
  input.model = *PresetDims(model);
  input.cluster = *BuiltinCluster(cluster);
  input.objective = objective;
  return input;
}

bool Has(absl::string_view text, absl::string_view part) {
  return text.find(part) != absl::string_view::npos;
}

TEST(SearchTest, ATrillionParametersUnder25Ms) {
  for (const int devices : {16, 32, 64, 128}) {
    const auto result = SearchPlan(Ask("kimi-k2", absl::StrCat("h200:", devices)));
    ASSERT_TRUE(result.ok()) << result.status().message();
    EXPECT_LT(result->best.tpot_seconds, 25e-3);
    EXPECT_LE(result->best.devices, devices);
    EXPECT_FALSE(result->reason.empty());
    EXPECT_FALSE(result->runners_up.empty());
    std::cout << devices << ": " << result->reason << "\n";
  }
}

TEST(SearchTest, TheBestIsNoWorseThanItsRunnersUpPricedAlone) {
  for (const char* model : {"qwen3-30b-a3b", "mixtral-8x7b", "llama-3.1-70b"}) {
    const SearchInput input = Ask(model, "h200:8");
    const auto result = SearchPlan(input);
    ASSERT_TRUE(result.ok()) << result.status().message();
    double last = result->best.tpot_seconds;
    for (const PricedPlan& plan : result->runners_up) {
      const auto alone = PricePlan(input, plan.candidate);
      ASSERT_TRUE(alone.ok());
      EXPECT_EQ(alone->tpot_seconds, plan.tpot_seconds);
      EXPECT_GE(plan.tpot_seconds, last * (1 - 1e-12));
      last = plan.tpot_seconds;
    }
  }
}

TEST(SearchTest, EqualQuestionsGiveEqualPlans) {
  const SearchInput input = Ask("deepseek-v3", "h200:16,a100-80g:16", Objective::kThroughput);
  const auto a = SearchPlan(input);
  const auto b = SearchPlan(input);
  ASSERT_TRUE(a.ok() && b.ok());
  EXPECT_EQ(a->best.candidate, b->best.candidate);
  EXPECT_EQ(a->best.tpot_seconds, b->best.tpot_seconds);
  EXPECT_EQ(a->reason, b->reason);
}

TEST(SearchTest, UnevenBeatsEvenOnAMixedCluster) {
  SearchInput input = Ask("deepseek-v3", "h200:64,a100-80g:64", Objective::kThroughput);
  const auto uneven = SearchPlan(input);
  input.uneven = false;
  const auto even = SearchPlan(input);
  ASSERT_TRUE(uneven.ok() && even.ok());
  std::cout << "uneven " << uneven->best.tokens_per_second << " tok/s, even "
            << even->best.tokens_per_second << "\n";
  EXPECT_GE(uneven->best.tokens_per_second, 1.2 * even->best.tokens_per_second);
}

TEST(SearchTest, AGivenGridIsObeyed) {
  SearchInput input = Ask("qwen3-235b-a22b", "h200:16");
  input.spec = ParallelSpec{.tp = 4, .dp = 2, .pp = 2};
  input.schedule = ScheduleKind::kNaive;
  const auto result = SearchPlan(input);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_EQ(result->best.candidate.spec.tp, 4);
  EXPECT_EQ(result->best.candidate.spec.dp, 2);
  EXPECT_EQ(result->best.candidate.spec.pp, 2);
  EXPECT_EQ(result->best.candidate.schedule, ScheduleKind::kNaive);
  input.spec = ParallelSpec{.tp = 3};
  EXPECT_EQ(SearchPlan(input).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(SearchTest, WhatDoesNotFitSaysByHowMuchAndWhatWould) {
  const auto result = SearchPlan(Ask("kimi-k2", "h200:4"));
  ASSERT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(Has(result.status().message(), "times its memory")) << result.status().message();
  EXPECT_TRUE(Has(result.status().message(), "8 devices")) << result.status().message();
}

TEST(SearchTest, AMissedSloNamesTheClosest) {
  SearchInput input = Ask("llama-3.1-405b", "h100:16");
  input.tpot_seconds = 1e-3;
  const auto result = SearchPlan(input);
  ASSERT_EQ(result.status().code(), absl::StatusCode::kFailedPrecondition)
      << result.status().message();
  EXPECT_TRUE(Has(result.status().message(), "ms")) << result.status().message();
}

TEST(SearchTest, OddClustersArePlanned) {
  for (const char* cluster : {"h200:1", "h200:21", "cpu:3", "gb200-nvl72:72", "h100:8,a6000:2"}) {
    const auto result = SearchPlan(Ask("olmoe-1b-7b", cluster));
    ASSERT_TRUE(result.ok()) << cluster << ": " << result.status().message();
    EXPECT_GT(result->best.tokens_per_second, 0);
  }
}

}  // namespace
}  // namespace conclave
