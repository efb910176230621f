// The search's uneven plans on clusters of two kinds of devices, asked of the simulation: they must
// be better there too, not only by the model that chose them.
#include <iostream>

#include "gtest/gtest.h"
#include "placement/forecast/forecast.h"
#include "placement/search/search.h"

namespace conclave {
namespace {

double StepsTokensPerSecond(SimulateInput input, const StepLoad& load) {
  input.load = load;
  input.steps = 3;
  const auto result = Simulate(input);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? result->tokens_per_second : 0;
}

// Output tokens a second with the prompts that they need computed in between.
double SimulatedTokensPerSecond(const SearchInput& asked, const PricedPlan& plan) {
  SimulateInput input;
  input.model = asked.model;
  input.cluster = asked.cluster;
  input.candidate = plan.candidate;
  const RequestMix& mix = asked.mix;
  const double context = mix.prompt_tokens + mix.output_tokens / 2;
  const double decode =
      StepsTokensPerSecond(input, DecodeLoad(plan.concurrency / plan.steps_in_flight, context));
  const double prefill =
      StepsTokensPerSecond(input, PrefillLoad(plan.candidate.spec.dp, mix.prompt_tokens));
  return 1 / (1 / decode + mix.prompt_tokens / mix.output_tokens / prefill);
}

TEST(MixedClusterTest, UnevenPlansAreAFifthBetterInTheSimulationToo) {
  for (const char* cluster : {"h200:64,a100-80g:64", "h200:16,a100-80g:16"}) {
    SearchInput input;
    input.model = *PresetDims("deepseek-v3");
    input.cluster = *BuiltinCluster(cluster);
    input.objective = Objective::kThroughput;
    const auto uneven = SearchPlan(input);
    input.uneven = false;
    const auto even = SearchPlan(input);
    ASSERT_TRUE(uneven.ok() && even.ok()) << cluster;
    const double with = SimulatedTokensPerSecond(input, uneven->best);
    const double without = SimulatedTokensPerSecond(input, even->best);
    std::cout << cluster << ": uneven " << with << " tok/s, even " << without << ": "
              << with / without << " x; by the model "
              << uneven->best.tokens_per_second / even->best.tokens_per_second << " x\n";
    EXPECT_GE(with, 1.2 * without) << cluster;
  }
}

}  // namespace
}  // namespace conclave
