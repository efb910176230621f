#include "tools/cli/plan_inputs.h"

#include <cstdlib>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/plan_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

PlanQuestion Question() {
  PlanQuestion question;
  question.model = "deepseek-v3";
  question.cluster = "h200:16";
  return question;
}

TEST(PlanInputsTest, Seconds) {
  EXPECT_DOUBLE_EQ(*ParseSeconds("--ttft", "250ms"), 0.25);
  EXPECT_DOUBLE_EQ(*ParseSeconds("--ttft", "2s"), 2);
  EXPECT_DOUBLE_EQ(*ParseSeconds("--ttft", "0.5"), 0.5);
  EXPECT_DOUBLE_EQ(*ParseSeconds("--ttft", "80us"), 80e-6);
  for (const char* text : {"", "ms", "-1", "0", "1h", "nan", "1e99", "0x1p3", "2 s", "1.2.3"}) {
    const absl::Status status = ParseSeconds("--ttft", text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(status.message(), HasSubstr("--ttft"));
    EXPECT_THAT(status.message(), HasSubstr("250ms"));
  }
}

TEST(PlanInputsTest, FlagsBecomeTheSearchInput) {
  PlanQuestion question = Question();
  question.objective = "throughput";
  question.parallel = "tp=8,dp=2";
  question.exchange = "two-level";
  question.concurrency = 64;
  question.ttft = "2s";
  question.tpot = "40ms";
  question.formats = {"int4", "fp8"};
  const absl::StatusOr<PlanInputs> inputs = MakePlanInputs(question);
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  const SearchInput& search = inputs->search;
  EXPECT_EQ(search.cluster.DeviceCount(), 16);
  EXPECT_EQ(search.objective, Objective::kThroughput);
  EXPECT_EQ(*search.spec, (ParallelSpec{8, 2, 1, 1, 16}));
  EXPECT_EQ(*search.schedule, ScheduleKind::kTwoLevel);
  EXPECT_EQ(search.mix.concurrency, 64);
  EXPECT_DOUBLE_EQ(search.ttft_seconds, 2);
  EXPECT_DOUBLE_EQ(search.tpot_seconds, 0.04);
  EXPECT_EQ(search.model.expert_format, NumberFormat::kInt4);
  EXPECT_EQ(search.model.kv_format, NumberFormat::kFp8);
  EXPECT_EQ(inputs->load.layers(), 0);
}

TEST(PlanInputsTest, BadFlagsNameFlagValueAndRemedy) {
  const struct {
    std::string PlanQuestion::*flag;
    const char* value;
    std::vector<const char*> says;
  } kCases[] = {
      {&PlanQuestion::model, "deepsek-v3", {"--model", "deepsek-v3", "did you mean 'deepseek-v3'"}},
      {&PlanQuestion::cluster, "h2oo:16", {"--cluster", "h2oo", "did you mean 'h200'"}},
      {&PlanQuestion::cluster, "h200", {"--cluster", "h200"}},
      {&PlanQuestion::cluster, "/nonexistent.yaml", {"--cluster", "/nonexistent.yaml"}},
      {&PlanQuestion::profile_path, "/nonexistent.yaml", {"--profile", "/nonexistent.yaml"}},
      {&PlanQuestion::trace_path, "/nonexistent.json", {"--trace", "/nonexistent.json"}},
      {&PlanQuestion::objective, "speed", {"--objective", "speed", "throughput"}},
      {&PlanQuestion::exchange, "ring", {"--exchange", "ring", "two-level"}},
      {&PlanQuestion::parallel, "tp=eight", {"--parallel", "eight"}},
      {&PlanQuestion::parallel, "tp=8,dp=4", {"--parallel", "32 devices", "has 16"}},
      {&PlanQuestion::parallel, "tp=8,dp=2,ep=3", {"--parallel", "ep"}},
      {&PlanQuestion::parallel, "tp=8,dp=2,slices=5", {"--parallel", "slices"}},
      {&PlanQuestion::parallel, "tp=3", {"--parallel", "tp"}},
      {&PlanQuestion::ttft, "soon", {"--ttft", "soon"}},
      {&PlanQuestion::tpot, "-3ms", {"--tpot", "-3ms"}},
  };
  for (const auto& test : kCases) {
    PlanQuestion question = Question();
    question.*test.flag = test.value;
    const absl::Status status = MakePlanInputs(question).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << test.value;
    for (const char* part : test.says) EXPECT_THAT(status.message(), HasSubstr(part));
  }
}

TEST(PlanInputsTest, ACalibratedProfileReplacesItsNamesake) {
  const std::string path = absl::StrCat(getenv("TEST_TMPDIR"), "/measured.yaml");
  HardwareProfile measured = *BuiltinProfile("h200");
  measured.memory_bandwidth = 4.2e12;
  std::ofstream(path) << WriteHardwareProfile(measured);
  PlanQuestion question = Question();
  question.cluster = "h200:8,a100-80g:8";
  question.profile_path = path;
  const absl::StatusOr<PlanInputs> inputs = MakePlanInputs(question);
  ASSERT_TRUE(inputs.ok()) << inputs.status();
  const ClusterTopology& cluster = inputs->search.cluster;
  EXPECT_EQ(cluster.ProfileOf(0).memory_bandwidth, 4.2e12);
  EXPECT_EQ(cluster.ProfileOf(8), *BuiltinProfile("a100-80g"));
  question.cluster = "a100-80g:8";
  const absl::Status other = MakePlanInputs(question).status();
  EXPECT_EQ(other.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(other.message(), HasSubstr("h200"));
}

TEST(PlanInputsTest, TracesHaveARowForEachMoeLayerOrEachLayer) {
  const ModelDims model = TinyModel();
  const std::string row = "[1, 2, 3, 4, 5, 6, 7, 8.5]";
  const std::string three = absl::StrCat(row, ",", row, ",", row);
  absl::StatusOr<LoadProfile> load =
      ParseLoadTrace(absl::StrCat("{\"counts\": [", three, "]}"), "t", model);
  ASSERT_TRUE(load.ok()) << load.status();
  EXPECT_EQ(load->layers(), 3);
  EXPECT_EQ(load->at(2, 7), 8.5);
  load = ParseLoadTrace(absl::StrCat("[[0,0,0,0,0,0,0,9],", three, "]"), "t", model);
  ASSERT_TRUE(load.ok()) << load.status();
  EXPECT_EQ(load->layers(), 3);
  EXPECT_EQ(load->at(0, 7), 8.5);  // the dense layer's row is left out
  const struct {
    std::string text;
    const char* says;
  } kBad[] = {{"{}", "counts"},
              {"[[1]]", "1 rows"},
              {absl::StrCat("[", row, ",", row, ",[1,2]]"), "row 2"},
              {absl::StrCat("[", row, ",", row, ",[1,2,3,4,5,6,7,-1]]"), "expert 7"},
              {absl::StrCat("[", row, ",", row, ",[1,2,3,4,5,6,7,\"x\"]]"), "expert 7"},
              {"nonsense", "JSON"}};
  for (const auto& bad : kBad) {
    const absl::Status status = ParseLoadTrace(bad.text, "t", model).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << bad.text;
    EXPECT_THAT(status.message(), HasSubstr(bad.says));
  }
}

}  // namespace
}  // namespace conclave
