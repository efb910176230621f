// Plans of many models on many clusters: that they hold together, and what they are like.
#include <cmath>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "placement/search/search.h"

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

// The memory and the shares of a plan, checked anew.
void ExpectSound(const SearchInput& input, const PricedPlan& plan) {
  const Candidate& candidate = plan.candidate;
  const ParallelSpec& spec = candidate.spec;
  EXPECT_EQ(plan.devices, spec.WorkerCount());
  EXPECT_EQ(std::set<int>(candidate.devices.begin(), candidate.devices.end()).size(),
            candidate.devices.size());
  double tokens = 0;
  for (const double share : candidate.token_shares) tokens += share;
  EXPECT_NEAR(tokens, 1, 1e-9);
  double units = 0;
  for (const double share : candidate.expert_shares) units += share;
  EXPECT_NEAR(units, input.model.IsMoe() ? 1 : 0, 1e-9);
  EXPECT_GE(plan.sequences_max, plan.concurrency);
  const double length = input.mix.prompt_tokens + input.mix.output_tokens;
  EXPECT_TRUE(CheckFits(input.model, input.cluster, candidate, plan.sequences_max * length,
                        plan.sequences_max)
                  .ok());
  EXPECT_TRUE(std::isfinite(plan.tpot_seconds) && plan.tpot_seconds > 0);
  EXPECT_TRUE(std::isfinite(plan.ttft_seconds) && plan.ttft_seconds > 0);
  EXPECT_GE(plan.tpot_seconds, plan.decode.seconds * (1 - 1e-9));
  EXPECT_FALSE(plan.note.empty());
  const auto alone = PricePlan(input, candidate);
  ASSERT_TRUE(alone.ok()) << alone.status().message();
  EXPECT_EQ(alone->tpot_seconds, plan.tpot_seconds);
  EXPECT_EQ(alone->tokens_per_second, plan.tokens_per_second);
}

TEST(SearchShapesTest, PlansHoldTogether) {
  for (const char* cluster : {"h200:1", "h200:8", "h200:21", "h100:8,a100-80g:13", "b200:24"}) {
    for (const char* model : {"llama-3.1-8b", "llama-3.1-70b", "mixtral-8x7b", "qwen3-30b-a3b",
                              "deepseek-v3", "kimi-k2"}) {
      for (const Objective objective : {Objective::kLatency, Objective::kThroughput}) {
        SCOPED_TRACE(absl::StrCat(model, " on ", cluster, " for ", ObjectiveName(objective)));
        const SearchInput input = Ask(model, cluster, objective);
        const auto result = SearchPlan(input);
        if (!result.ok()) {
          EXPECT_EQ(result.status().code(), absl::StatusCode::kResourceExhausted);
          continue;
        }
        ExpectSound(input, result->best);
        std::set<std::string> grids = {result->best.candidate.spec.ToString()};
        for (const PricedPlan& plan : result->runners_up) {
          ExpectSound(input, plan);
          EXPECT_TRUE(grids.insert(plan.candidate.spec.ToString()).second);
          EXPECT_TRUE(absl::StrContains(plan.note, "loses")) << plan.note;
        }
        EXPECT_LE(result->runners_up.size(), 5u);
      }
    }
  }
}

TEST(SearchShapesTest, TensorParallelGroupsStayWithinAFastDomain) {
  for (const char* cluster : {"h200:21", "h200:40", "h100:8,a100-80g:8"}) {
    const SearchInput input = Ask("llama-3.1-70b", cluster);
    const auto result = SearchPlan(input);
    ASSERT_TRUE(result.ok());
    const Candidate& best = result->best.candidate;
    for (int rank = 0; rank < best.spec.WorkerCount(); ++rank) {
      const int first = best.devices[rank - rank % best.spec.tp];
      if (best.devices[rank] == first) continue;
      EXPECT_EQ(input.cluster.LinkBetween(first, best.devices[rank]), LinkClass::kFast);
    }
  }
}

TEST(SearchShapesTest, OneSequenceOfADenseModelNeedsNoSecondGroup) {
  const auto result = SearchPlan(Ask("llama-3.1-8b", "h200:32"));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->best.candidate.spec.dp, 1);
  EXPECT_EQ(result->best.candidate.spec.pp, 1);
  EXPECT_LE(result->best.devices, 8);
  EXPECT_TRUE(absl::StrContains(result->reason, "idle"));
}

TEST(SearchShapesTest, ManySequencesUseEveryDevice) {
  const auto result = SearchPlan(Ask("deepseek-v3", "h200:32", Objective::kThroughput));
  ASSERT_TRUE(result.ok());
  EXPECT_EQ(result->best.devices, 32);
  EXPECT_GT(result->best.concurrency, 1000);
}

TEST(SearchShapesTest, MixedClustersGetUnevenPlansAFifthBetter) {
  struct Case {
    const char* model;
    const char* cluster;
  };
  for (const Case& one :
       {Case{"kimi-k2", "h200:8,a100-80g:8"}, Case{"kimi-k2", "h200:64,a100-80g:64"},
        Case{"deepseek-v3", "h200:16,a100-80g:16"}}) {
    SearchInput input = Ask(one.model, one.cluster, Objective::kThroughput);
    const auto uneven = SearchPlan(input);
    input.uneven = false;
    const auto even = SearchPlan(input);
    ASSERT_TRUE(uneven.ok() && even.ok()) << one.cluster;
    EXPECT_GE(uneven->best.tokens_per_second, 1.2 * even->best.tokens_per_second)
        << one.model << " on " << one.cluster << "\n"
        << uneven->reason << "\n"
        << even->reason;
  }
}

TEST(SearchShapesTest, AnSloBoundsTheConcurrency) {
  SearchInput input = Ask("qwen3-235b-a22b", "h200:16", Objective::kThroughput);
  const auto open = SearchPlan(input);
  input.tpot_seconds = 30e-3;
  input.ttft_seconds = 2;
  const auto bounded = SearchPlan(input);
  ASSERT_TRUE(open.ok() && bounded.ok());
  EXPECT_LE(bounded->best.tpot_seconds, 30e-3);
  EXPECT_LE(bounded->best.ttft_seconds, 2);
  EXPECT_LT(bounded->best.concurrency, open->best.concurrency);
  EXPECT_LT(bounded->best.tokens_per_second, open->best.tokens_per_second);
  EXPECT_GT(bounded->slo_missed, 0);
}

TEST(SearchShapesTest, ArrivingPromptsSlowTheTokensDown) {
  SearchInput input = Ask("qwen3-30b-a3b", "h200:4");
  input.mix.concurrency = 64;
  input.spec = ParallelSpec{.tp = 2, .dp = 2};
  const auto mixed = SearchPlan(input);
  input.mix.prompt_tokens = 1;
  input.mix.output_tokens = 2303;  // as long a context on average, hardly any prompt
  const auto decode = SearchPlan(input);
  ASSERT_TRUE(mixed.ok() && decode.ok());
  EXPECT_GT(mixed->best.tpot_seconds, 1.05 * mixed->best.decode.seconds);
  EXPECT_LT(decode->best.tpot_seconds, 1.01 * decode->best.decode.seconds);
}

TEST(SearchShapesTest, CostPrefersTheCheaperNodes) {
  SearchInput input = Ask("llama-3.1-8b", "h200:8,a100-80g:8", Objective::kCost);
  input.cluster.nodes[0].cost_per_hour = 100;
  input.cluster.nodes[1].cost_per_hour = 1;
  const auto result = SearchPlan(input);
  ASSERT_TRUE(result.ok()) << result.status().message();
  for (const int device : result->best.candidate.devices) {
    EXPECT_EQ(input.cluster.NodeOf(device), 1);
  }
  const double hour = result->best.tokens_per_second * 3600;
  EXPECT_NEAR(result->best.cost_per_million_tokens, 1 / hour * 1e6, 1e-9);
}

TEST(SearchShapesTest, LargeClustersArePlannedByTheBeam) {
  SearchInput input = Ask("kimi-k2", "h200:256");
  input.mix.concurrency = 2048;
  const auto a = SearchPlan(input);
  const auto b = SearchPlan(input);
  ASSERT_TRUE(a.ok() && b.ok());
  ExpectSound(input, a->best);
  EXPECT_GT(a->best.devices, 128);
  EXPECT_EQ(a->best.candidate, b->best.candidate);
  EXPECT_EQ(a->reason, b->reason);
}

}  // namespace
}  // namespace conclave
