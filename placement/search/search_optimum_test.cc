// The search against brute force: every even candidate of small clusters, and every small change of
// the uneven plan that it found, priced one by one.
#include <numeric>
#include <string>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "placement/search/search.h"

namespace conclave {
namespace {

SearchInput Ask(const std::string& model, const std::string& cluster, Objective objective) {
  SearchInput input;
  input.model = *PresetDims(model);
  input.cluster = *BuiltinCluster(cluster);
  input.objective = objective;
  for (ClusterNode& node : input.cluster.nodes) {
    node.cost_per_hour = input.cluster.profiles[node.profile].name == "h200" ? 32 : 14;
  }
  return input;
}

// Smaller is better.
double Loss(Objective objective, const PricedPlan& plan) {
  switch (objective) {
    case Objective::kLatency:
      return plan.tpot_seconds;
    case Objective::kThroughput:
      return 1 / plan.tokens_per_second;
    case Objective::kCost:
      return plan.cost_per_million_tokens;
  }
  return 0;
}

bool MeetsSlo(const SearchInput& input, const PricedPlan& plan) {
  return (input.tpot_seconds == 0 || plan.tpot_seconds <= input.tpot_seconds) &&
         (input.ttft_seconds == 0 || plan.ttft_seconds <= input.ttft_seconds);
}

std::vector<Candidate> EveryEvenCandidate(const SearchInput& input) {
  std::vector<Candidate> all;
  const int devices = input.cluster.DeviceCount();
  for (int tp = 1; tp <= devices; tp *= 2) {
    for (int dp = 1; tp * dp <= devices; ++dp) {
      for (int pp = 1; tp * dp * pp <= devices; ++pp) {
        for (int slices = 1; slices <= (input.model.IsMoe() ? 8 : 1); slices *= 2) {
          ParallelSpec spec{.tp = tp, .dp = dp, .pp = pp, .slices = slices};
          if (!CheckGrid(input.model, spec).ok()) continue;
          spec.ep = input.model.IsMoe() ? spec.StageSize() / slices : 0;
          std::vector<int> ranks(spec.WorkerCount());
          std::iota(ranks.begin(), ranks.end(), 0);
          for (const ScheduleKind schedule :
               {ScheduleKind::kNaive, ScheduleKind::kPcc, ScheduleKind::kTwoLevel}) {
            all.push_back(EvenCandidate(spec, schedule, input.model.layers, ranks));
          }
        }
      }
    }
  }
  return all;
}

void ExpectNoneBetter(const SearchInput& input) {
  SCOPED_TRACE(absl::StrCat(input.model.name, " on ", input.cluster.name, " for ",
                            ObjectiveName(input.objective), ", tpot ", input.tpot_seconds));
  const auto result = SearchPlan(input);
  ASSERT_TRUE(result.ok()) << result.status().message();
  EXPECT_TRUE(MeetsSlo(input, result->best));
  const double best = Loss(input.objective, result->best);
  int priced = 0;
  for (const Candidate& candidate : EveryEvenCandidate(input)) {
    const auto plan = PricePlan(input, candidate);
    if (!plan.ok() || !MeetsSlo(input, *plan)) continue;
    ++priced;
    EXPECT_GE(Loss(input.objective, *plan), best * (1 - 1e-8))
        << candidate.spec << " " << ScheduleName(candidate.schedule);
  }
  EXPECT_GT(priced, 3);
}

TEST(SearchOptimumTest, NoEvenCandidateOfASmallClusterIsBetter) {
  for (const Objective objective :
       {Objective::kLatency, Objective::kThroughput, Objective::kCost}) {
    ExpectNoneBetter(Ask("mixtral-8x7b", "h200:4", objective));
    ExpectNoneBetter(Ask("qwen3-30b-a3b", "h200:6", objective));
    ExpectNoneBetter(Ask("llama-3.1-8b", "h100:4", objective));
    ExpectNoneBetter(Ask("olmoe-1b-7b", "h200:3,a100-80g:3", objective));
  }
  ExpectNoneBetter(Ask("qwen3-235b-a22b", "h200:11", Objective::kLatency));
}

TEST(SearchOptimumTest, NorWithAnSlo) {
  SearchInput input = Ask("qwen3-30b-a3b", "h200:4", Objective::kThroughput);
  input.tpot_seconds = 20e-3;
  ExpectNoneBetter(input);
  input.ttft_seconds = 0.1;
  ExpectNoneBetter(input);
  input.objective = Objective::kCost;
  ExpectNoneBetter(input);
  input.mix.concurrency = 64;
  ExpectNoneBetter(input);
}

// Candidates that differ from `plan` by one layer between two stages, or by one expert of every
// layer between the ranks of two devices, or by a twentieth of a dp group's tokens.
std::vector<Candidate> Neighbours(const ModelDims& model, const Candidate& plan) {
  std::vector<Candidate> all;
  const int stages = plan.spec.pp;
  for (int from = 0; from < stages; ++from) {
    for (int to = 0; to < stages; ++to) {
      if (from == to || plan.stages[from].end - plan.stages[from].begin < 2) continue;
      Candidate moved = plan;
      int next = 0;
      for (int s = 0; s < stages; ++s) {
        const int layers = plan.stages[s].end - plan.stages[s].begin - (s == from) + (s == to);
        moved.stages[s] = {next, next + layers};
        next += layers;
      }
      all.push_back(moved);
    }
  }
  const double unit = 1.0 / (model.experts * plan.spec.slices);
  const int size = static_cast<int>(plan.expert_shares.size());
  for (const auto& [from, to] : {std::pair(0, size - 1), std::pair(size - 1, 0)}) {
    if (size < 2 || plan.expert_shares[from] < unit) continue;
    Candidate moved = plan;
    moved.expert_shares[from] -= unit;
    moved.expert_shares[to] += unit;
    all.push_back(moved);
  }
  for (const auto& [from, to] : {std::pair(0, plan.spec.dp - 1), std::pair(plan.spec.dp - 1, 0)}) {
    if (from == to) continue;
    Candidate moved = plan;
    const double part = moved.token_shares[from] / 20;
    moved.token_shares[from] -= part;
    moved.token_shares[to] += part;
    all.push_back(moved);
  }
  return all;
}

TEST(SearchOptimumTest, NoSmallChangeOfAnUnevenPlanIsWorthMaking) {
  for (const Objective objective : {Objective::kLatency, Objective::kThroughput}) {
    for (const char* model : {"deepseek-v3", "qwen3-235b-a22b", "llama-3.1-70b"}) {
      SearchInput input = Ask(model, "h200:8,a100-80g:8", objective);
      const auto result = SearchPlan(input);
      ASSERT_TRUE(result.ok()) << result.status().message();
      const double best = Loss(objective, result->best);
      for (const Candidate& candidate : Neighbours(input.model, result->best.candidate)) {
        const auto plan = PricePlan(input, candidate);
        if (!plan.ok()) continue;  // does not fit
        EXPECT_GE(Loss(objective, *plan), best * 0.995) << model;
      }
    }
  }
}

TEST(SearchOptimumTest, UnevenIsNeverWorseThanEven) {
  for (const Objective objective :
       {Objective::kLatency, Objective::kThroughput, Objective::kCost}) {
    for (const char* model : {"qwen3-30b-a3b", "llama-3.1-70b", "mixtral-8x7b"}) {
      SearchInput input = Ask(model, "h200:8,h100:4", objective);
      const auto uneven = SearchPlan(input);
      input.uneven = false;
      const auto even = SearchPlan(input);
      ASSERT_TRUE(uneven.ok() && even.ok());
      EXPECT_LE(Loss(objective, uneven->best), Loss(objective, even->best) * (1 + 1e-9)) << model;
    }
  }
}

}  // namespace
}  // namespace conclave
