#include "tools/cli/simulate.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/exact_json.h"
#include "tools/cli/plan_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

SimulateOptions Options() {
  SimulateOptions options;
  options.steps = 20;
  options.seed = 7;
  return options;
}

PlanInputs Inputs() {
  PlanInputs inputs = TinyInputs();
  inputs.search.mix.concurrency = 64;
  inputs.search.spec = ParallelSpec{1, 4, 1, 1, 4};
  return inputs;
}

TEST(SimulateTest, OneSeedOneResult) {
  const auto first = ForecastScenarios(Options(), Inputs());
  ASSERT_TRUE(first.ok()) << first.status();
  ASSERT_EQ(first->size(), 1);
  const SimulateResult& forecast = (*first)[0].forecast;
  EXPECT_EQ(forecast.step_seconds.size(), 20);
  EXPECT_LE(forecast.p50_seconds, forecast.p99_seconds);
  EXPECT_GT(forecast.p50_seconds, 0);
  const auto again = ForecastScenarios(Options(), Inputs());
  EXPECT_EQ(PrettyJson(ScenariosToJson(*first)), PrettyJson(ScenariosToJson(*again)));
  SimulateOptions other = Options();
  other.seed = 8;
  EXPECT_NE(ForecastScenarios(other, Inputs())->front().forecast.step_seconds,
            forecast.step_seconds);
}

TEST(SimulateTest, BalanceAndCopiesEvenOutASkew) {
  SimulateOptions options = Options();
  options.skew = 1.2;
  options.redundant_experts = 3;
  const auto scenarios = ForecastScenarios(options, Inputs());
  ASSERT_TRUE(scenarios.ok()) << scenarios.status();
  ASSERT_EQ(scenarios->size(), 3);
  EXPECT_EQ((*scenarios)[0].name, "as planned");
  EXPECT_EQ((*scenarios)[1].name, "experts balanced");
  EXPECT_EQ((*scenarios)[2].name, "4 copies more");  // whole slots of four ranks
  EXPECT_LE((*scenarios)[1].forecast.imbalance_mean, (*scenarios)[0].forecast.imbalance_mean);
  EXPECT_LT((*scenarios)[2].forecast.imbalance_mean, (*scenarios)[1].forecast.imbalance_mean);
}

TEST(SimulateTest, NodesComeAndGo) {
  SimulateOptions options = Options();
  options.lost_node = "node-1";
  options.added_nodes = 2;
  PlanInputs inputs = Inputs();
  inputs.search.spec.reset();
  const auto scenarios = ForecastScenarios(options, inputs);
  ASSERT_TRUE(scenarios.ok()) << scenarios.status();
  ASSERT_EQ(scenarios->size(), 3);
  EXPECT_EQ((*scenarios)[1].plan.inputs.search.cluster.DeviceCount(), 2);
  EXPECT_EQ((*scenarios)[2].plan.inputs.search.cluster.DeviceCount(), 8);
  EXPECT_TRUE((*scenarios)[1].change.has_value());
  const std::string text = RenderScenarios(*scenarios, {});
  for (const char* part : {"as planned", "without node-1", "2 more nodes", "P99",
                           "FROM AS PLANNED TO without node-1"}) {
    EXPECT_THAT(text, HasSubstr(part));
  }
}

TEST(SimulateTest, AGridThatNoLongerFitsGivesWayToTheSearch) {
  SimulateOptions options = Options();
  options.lost_node = "node-0";
  const auto scenarios = ForecastScenarios(options, Inputs());  // tp=1,dp=4 on 4 devices
  ASSERT_TRUE(scenarios.ok()) << scenarios.status();
  EXPECT_LE((*scenarios)[1].plan.result.best.devices, 2);
}

TEST(SimulateTest, BadQuestionsNameTheFlag) {
  SimulateOptions options = Options();
  options.lost_node = "nod-1";
  absl::Status status = ForecastScenarios(options, Inputs()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("--lose 'nod-1'"));
  EXPECT_THAT(status.message(), HasSubstr("did you mean 'node-"));

  options = Options();
  options.lost_node = "node-0";
  PlanInputs single = Inputs();
  single.search.cluster = TinyCluster(1, 4);
  status = ForecastScenarios(options, single).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.message(), HasSubstr("only node"));

  options = Options();
  options.skew = 1;
  options.question.trace_path = "trace.json";
  EXPECT_THAT(ForecastScenarios(options, Inputs()).status().message(), HasSubstr("--trace"));

  PlanInputs dense = Inputs();
  dense.search.model.experts = 0;
  dense.search.model.moe_layers.assign(4, false);
  dense.search.spec = ParallelSpec{1, 4, 1, 1, 0};
  options = Options();
  options.skew = 1;
  EXPECT_THAT(ForecastScenarios(options, dense).status().message(), HasSubstr("no experts"));
  options = Options();
  options.redundant_experts = 4;
  EXPECT_THAT(ForecastScenarios(options, dense).status().message(), HasSubstr("no experts"));
  EXPECT_TRUE(ForecastScenarios(Options(), dense).ok());

  options = Options();
  options.redundant_experts = 1 << 20;
  PlanInputs full = Inputs();
  full.search.cluster.profiles[0].memory_bytes = 4.5e8;
  EXPECT_FALSE(ForecastScenarios(options, full).ok());
}

}  // namespace
}  // namespace conclave
