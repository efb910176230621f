#include "tools/cli/plan_document.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/exact_json.h"
#include "tools/cli/plan_inputs_json.h"
#include "tools/cli/plan_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

// Figures whose decimal forms are long.
PlanInputs AwkwardInputs() {
  PlanInputs inputs = TinyInputs();
  inputs.search.cluster.profiles[0].memory_bandwidth = 1e12 / 3;
  inputs.search.cluster.nodes[1].network.alpha = 8.1e-6 / 7;
  inputs.search.cluster.nodes[1].cost_per_hour = 0.1 + 0.2;
  inputs.search.mix.prompt_tokens = 512.7;
  inputs.load = LoadProfile(3, 8);
  for (int layer = 0; layer < 3; ++layer) {
    for (int expert = 0; expert < 8; ++expert) inputs.load.Add(layer, expert, 1.0 / (expert + 3));
  }
  return inputs;
}

TEST(PlanDocumentTest, InputsSurviveBitForBit) {
  const PlanInputs inputs = AwkwardInputs();
  const std::string text = PrettyJson(InputsToJson(inputs));
  const auto value = ParseExactJson(text, "t");
  ASSERT_TRUE(value.ok()) << value.status();
  const absl::StatusOr<PlanInputs> back = InputsFromJson(JsonFields(value->get_object(), "t"));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->search.model, inputs.search.model);
  EXPECT_EQ(back->search.cluster, inputs.search.cluster);
  EXPECT_EQ(back->search.mix, inputs.search.mix);
  EXPECT_EQ(back->load, inputs.load);
  EXPECT_EQ(PrettyJson(InputsToJson(*back)), text);
}

TEST(PlanDocumentTest, GivenGridAndScheduleSurvive) {
  PlanInputs inputs = TinyInputs();
  inputs.search.spec = ParallelSpec{2, 2, 1, 2, 2};
  inputs.search.schedule = ScheduleKind::kTwoLevel;
  inputs.search.objective = Objective::kCost;
  inputs.search.ttft_seconds = 0.25;
  inputs.search.uneven = false;
  const auto value = ParseExactJson(PrettyJson(InputsToJson(inputs)), "t");
  const absl::StatusOr<PlanInputs> back = InputsFromJson(JsonFields(value->get_object(), "t"));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->search.spec, inputs.search.spec);
  EXPECT_EQ(back->search.schedule, inputs.search.schedule);
  EXPECT_EQ(back->search.objective, Objective::kCost);
  EXPECT_EQ(back->search.ttft_seconds, 0.25);
  EXPECT_FALSE(back->search.uneven);
}

TEST(PlanDocumentTest, PlanningAgainFromAFileWritesTheSameBytes) {
  for (const PlanInputs& inputs : {TinyInputs(), AwkwardInputs()}) {
    const absl::StatusOr<PlanDocument> document = MakePlanDocument(inputs);
    ASSERT_TRUE(document.ok()) << document.status();
    const std::string text = WritePlanDocument(*document);
    const absl::StatusOr<SavedPlan> saved = ReadPlanDocument(text, "plan.json");
    ASSERT_TRUE(saved.ok()) << saved.status();
    EXPECT_EQ(saved->chosen, document->result.best.candidate);
    EXPECT_EQ(saved->experts, document->experts.map);
    const absl::StatusOr<PlanDocument> again = MakePlanDocument(saved->inputs);
    ASSERT_TRUE(again.ok()) << again.status();
    EXPECT_EQ(WritePlanDocument(*again), text);
    const absl::StatusOr<PlanDocument> priced = PriceSavedPlan(*saved);
    ASSERT_TRUE(priced.ok()) << priced.status();
    EXPECT_EQ(priced->result.best.tpot_seconds, document->result.best.tpot_seconds);
  }
}

TEST(PlanDocumentTest, ALoadIsBalancedAndSaved) {
  PlanInputs inputs = TinyInputs();
  inputs.load = LoadProfile(3, 8);
  // The first two experts, which blocks of two put on one rank, get nearly all.
  for (int layer = 0; layer < 3; ++layer) {
    for (int expert = 0; expert < 8; ++expert) inputs.load.Add(layer, expert, expert < 2 ? 50 : 1);
  }
  inputs.search.spec = ParallelSpec{1, 4, 1, 1, 4};
  const absl::StatusOr<PlanDocument> document = MakePlanDocument(inputs);
  ASSERT_TRUE(document.ok()) << document.status();
  EXPECT_LT(document->experts.makespan, document->experts.makespan_in_blocks);
  const LayerExperts& layer = document->experts.map.layers[1];
  EXPECT_NE(layer.Owners({0, 0})[0], layer.Owners({1, 0})[0]);
}

TEST(PlanDocumentTest, DamagedFilesAreRefusedByKey) {
  const std::string text = WritePlanDocument(*MakePlanDocument(TinyInputs()));
  const struct {
    const char* from;
    const char* to;
    std::vector<const char*> says;
  } kCases[] = {
      {"\"conclave-plan\"", "\"other\"", {"format", "conclave plan --output"}},
      {"\"version\": 1", "\"version\": 99", {"version", "99", "plan again"}},
      {"\"layers\": 4", "\"layers\": -4", {"model", "layers", "-4"}},
      {"\"top_k\": 2", "\"top_k\": 9", {"top_k", "9"}},
      {"\"moe_layers\": [1, 2, 3]", "\"moe_layers\": [1, 2, 9]", {"moe_layers"}},
      {"\"moe_layers\": [1, 2, 3]", "\"moe_layers\": []", {"moe_layers"}},
      {"\"profile\": 0", "\"profile\": 7", {"nodes 0", "profile", "7"}},
      {"\"memory_bandwidth\": 1e+12", "\"memory_bandwidth\": 0", {"memory_bandwidth"}},
      {"\"objective\": \"latency\"", "\"objective\": \"fast\"", {"objective", "fast"}},
      {"\"prompt_tokens\": 512", "\"prompt_tokens\": \"x\"", {"prompt_tokens"}},
      {"\"inputs\"", "\"outputs\"", {"inputs is missing"}},
      {"\"candidate\"", "\"kandidat\"", {"candidate"}},
      {"\"stages\"", "\"stations\"", {"stages"}},
      {"\"owners\": [", "\"owners\": [99, ", {"owners"}},
  };
  for (const auto& test : kCases) {
    std::string damaged = text;
    const size_t at = damaged.find(test.from);
    ASSERT_NE(at, std::string::npos) << test.from;
    damaged.replace(at, std::string(test.from).size(), test.to);
    const absl::StatusOr<SavedPlan> saved = ReadPlanDocument(damaged, "plan.json");
    // What types cannot tell, the pricing refuses.
    const absl::Status status = saved.ok() ? PriceSavedPlan(*saved).status() : saved.status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.to << ": " << status;
    for (const char* part : test.says) EXPECT_THAT(status.message(), HasSubstr(part));
  }
  for (const char* whole : {"", "[]", "{}", "null", "{\"format\": 3}"}) {
    EXPECT_EQ(ReadPlanDocument(whole, "p").status().code(), absl::StatusCode::kInvalidArgument);
  }
}

TEST(PlanDocumentTest, EveryCutOfAFileIsRefused) {
  const std::string text = WritePlanDocument(*MakePlanDocument(TinyInputs()));
  for (size_t size = 0; size + 2 < text.size(); size += 97) {
    EXPECT_FALSE(ReadPlanDocument(text.substr(0, size), "p").ok());
  }
}

}  // namespace
}  // namespace conclave
