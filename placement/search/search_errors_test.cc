// What the search says to input that is wrong, and to questions without an answer.
#include <cmath>
#include <functional>
#include <string>

#include "absl/strings/match.h"
#include "gtest/gtest.h"
#include "placement/search/search.h"

namespace conclave {
namespace {

SearchInput Ask(const std::string& model, const std::string& cluster) {
  SearchInput input;
  input.model = *PresetDims(model);
  input.cluster = *BuiltinCluster(cluster);
  return input;
}

void ExpectError(const absl::Status& status, absl::StatusCode code,
                 const std::vector<std::string>& parts) {
  EXPECT_EQ(status.code(), code) << status.message();
  for (const std::string& part : parts) {
    EXPECT_TRUE(absl::StrContains(status.message(), part)) << part << " in " << status.message();
  }
}

TEST(SearchErrorsTest, BadInputIsNamed) {
  struct Case {
    std::function<void(SearchInput&)> spoil;
    std::string part;
  };
  const Case cases[] = {
      {[](SearchInput& in) { in.mix.concurrency = -1; }, "mix.concurrency is -1"},
      {[](SearchInput& in) { in.mix.prompt_tokens = 0; }, "mix.prompt_tokens is 0"},
      {[](SearchInput& in) { in.mix.output_tokens = NAN; }, "mix.output_tokens is nan"},
      {[](SearchInput& in) { in.ttft_seconds = -0.5; }, "ttft_seconds is -0.5"},
      {[](SearchInput& in) { in.tpot_seconds = INFINITY; }, "tpot_seconds is inf"},
      {[](SearchInput& in) { in.mix.prompt_tokens = 1e6; }, "exceed the context"},
      {[](SearchInput& in) { in.model.layers = 0; }, "layers 0"},
      {[](SearchInput& in) { in.model.kv_heads = 0; }, "kv_heads 0"},
      {[](SearchInput& in) { in.model.top_k = 999; }, "top_k 999"},
      {[](SearchInput& in) { in.model.moe_layers.push_back(true); }, "moe_layers of size"},
      {[](SearchInput& in) { in.cluster.nodes.clear(); }, "has 0 devices"},
      {[](SearchInput& in) { in.cluster.nodes[0].profile = 7; }, "of profile 7"},
      {[](SearchInput& in) { in.cluster.profiles[0].memory_bandwidth = 0; }, "of 0"},
      {[](SearchInput& in) { in.cluster.nodes[0].fast.bandwidth = 0; }, "fast link of 0"},
      {[](SearchInput& in) { in.spec = ParallelSpec{.tp = 3}; }, "tp must divide"},
      {[](SearchInput& in) { in.spec = ParallelSpec{.tp = 0}; }, "degree of 0"},
      {[](SearchInput& in) { in.spec = ParallelSpec{.dp = 9999, .pp = 9999}; }, "more than"},
      {[](SearchInput& in) { in.spec = ParallelSpec{.tp = 2, .ep = 7}; }, "ep=7 contradicts"},
      {[](SearchInput& in) { in.spec = ParallelSpec{.pp = 999}; }, "layers"},
      {[](SearchInput& in) {
         in.objective = Objective::kCost;
         in.cluster.nodes[0].cost_per_hour = 0;
       },
       "cost_per_hour"},
  };
  for (const Case& one : cases) {
    SearchInput input = Ask("qwen3-30b-a3b", "h200:8");
    one.spoil(input);
    ExpectError(SearchPlan(input).status(), absl::StatusCode::kInvalidArgument, {one.part});
  }
}

TEST(SearchErrorsTest, AGridLargerThanTheClusterSaysWhatItNeeds) {
  SearchInput input = Ask("qwen3-30b-a3b", "h200:8");
  input.spec = ParallelSpec{.tp = 4, .dp = 4};
  ExpectError(SearchPlan(input).status(), absl::StatusCode::kResourceExhausted,
              {"needs 16 devices", "has 8", "8 more devices"});
}

TEST(SearchErrorsTest, RemediesForAModelThatIsTooLargeDoWork) {
  SearchInput input = Ask("llama-3.1-405b", "h100:8");
  const absl::Status status = SearchPlan(input).status();
  ExpectError(status, absl::StatusCode::kResourceExhausted,
              {"llama-3.1-405b does not fit", "times its memory", "rank", "GiB",
               "2 times the nodes (16 devices", "fp8 weights"});
  SearchInput more = Ask("llama-3.1-405b", "h100:16");
  EXPECT_TRUE(SearchPlan(more).ok());
  input.model.format = NumberFormat::kFp8;
  EXPECT_TRUE(SearchPlan(input).ok());
}

TEST(SearchErrorsTest, SequencesThatDoNotFitAreTooLargeToo) {
  SearchInput input = Ask("llama-3.1-70b", "h200:2");
  input.mix.prompt_tokens = 30000;
  input.mix.concurrency = 64;
  ExpectError(SearchPlan(input).status(), absl::StatusCode::kResourceExhausted, {"KV of"});
}

TEST(SearchErrorsTest, AMissedSloNamesWhichAndTheClosest) {
  SearchInput input = Ask("deepseek-v3", "h200:16");
  input.tpot_seconds = 1e-4;
  const absl::Status tpot = SearchPlan(input).status();
  ExpectError(tpot, absl::StatusCode::kFailedPrecondition,
              {"closest", "tp=", "between tokens where tpot asks for 100.0 us"});
  EXPECT_FALSE(absl::StrContains(tpot.message(), "ttft"));
  input.tpot_seconds = 0;
  input.ttft_seconds = 1e-4;
  ExpectError(SearchPlan(input).status(), absl::StatusCode::kFailedPrecondition,
              {"first token after", "ttft asks for 100.0 us"});
}

TEST(SearchErrorsTest, ACandidateThatContradictsItselfIsRefused) {
  SearchInput input = Ask("qwen3-30b-a3b", "h200:8");
  const Candidate good = EvenCandidate({.tp = 2, .dp = 2, .pp = 2, .ep = 4}, ScheduleKind::kPcc,
                                       input.model.layers, {0, 1, 2, 3, 4, 5, 6, 7});
  ASSERT_TRUE(PricePlan(input, good).ok());
  struct Case {
    std::function<void(Candidate&)> spoil;
    std::string part;
  };
  const Case cases[] = {
      {[](Candidate& c) { c.devices.pop_back(); }, "devices has 7 entries"},
      {[](Candidate& c) { c.devices[0] = 1; }, "names a device twice"},
      {[](Candidate& c) { c.devices[0] = 8; }, "but the cluster has 8"},
      {[](Candidate& c) { c.devices[0] = -1; }, "goes from -1"},
      {[](Candidate& c) { c.stages.pop_back(); }, "stages has 1 entries"},
      {[](Candidate& c) { c.stages[1].begin = 0; }, "where 24 is next"},
      {[](Candidate& c) { c.stages[1].end = 47; }, "ends at layer 47"},
      {[](Candidate& c) { c.token_shares = {0.5}; }, "token_shares has 1 entries"},
      {[](Candidate& c) {
         c.token_shares = {0.5, 0.2};
       },
       "sums to 0.7"},
      {[](Candidate& c) { c.expert_shares[0] = -1; }, "holds -1"},
      {[](Candidate& c) { c.expert_shares.clear(); }, "expert_shares has 0 entries"},
      {[](Candidate& c) { c.spec.slices = 0; }, "degree of 0"},
  };
  for (const Case& one : cases) {
    Candidate candidate = good;
    one.spoil(candidate);
    ExpectError(PricePlan(input, candidate).status(), absl::StatusCode::kInvalidArgument,
                {one.part});
  }
}

TEST(SearchErrorsTest, ObjectivesHaveNames) {
  for (const Objective objective :
       {Objective::kLatency, Objective::kThroughput, Objective::kCost}) {
    EXPECT_EQ(*ParseObjective(ObjectiveName(objective)), objective);
  }
  ExpectError(ParseObjective("speed").status(), absl::StatusCode::kInvalidArgument,
              {"speed", "latency, throughput or cost"});
}

}  // namespace
}  // namespace conclave
