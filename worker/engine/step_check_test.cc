#include "worker/engine/step_check.h"

#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr StepLimits kLimits = {100, 8, 4, 2, 1};

StepPlan GoodPlan() {
  StepPlan plan;
  plan.epoch = Epoch{3};
  plan.step = StepId{7};
  plan.tokens_by_dp = {5, 4};
  SequenceSlice prompt;
  prompt.request = RequestId{1};
  prompt.position = 3;
  prompt.tokens = {0, 50, 99};
  prompt.pages = {7, 0};
  SequenceSlice decode;
  decode.request = RequestId{2};
  decode.tokens = {-1};
  decode.from_previous_step = true;
  decode.pages = {3};
  decode.sample = true;
  plan.batch = {prompt, decode};
  return plan;
}

TEST(StepCheckTest, AcceptsAGoodPlan) {
  EXPECT_TRUE(CheckStepPlan(GoodPlan(), kLimits).ok()) << CheckStepPlan(GoodPlan(), kLimits);
}

TEST(StepCheckTest, AcceptsAnEmptyBatch) {
  StepPlan plan = GoodPlan();
  plan.batch.clear();
  plan.tokens_by_dp = {5, 0};
  EXPECT_TRUE(CheckStepPlan(plan, kLimits).ok());
}

TEST(StepCheckTest, RefusesWhatCannotRun) {
  struct Case {
    const char* says;
    std::function<void(StepPlan&)> spoil;
  };
  const std::vector<Case> cases = {
      {"tokens_by_dp has 1 counts", [](StepPlan& p) { p.tokens_by_dp = {4}; }},
      {"tokens_by_dp has -1", [](StepPlan& p) { p.tokens_by_dp[0] = -1; }},
      {"tokens_by_dp has 2000000000", [](StepPlan& p) { p.tokens_by_dp[0] = 2000000000; }},
      {"tokens_by_dp[1] says 9", [](StepPlan& p) { p.tokens_by_dp[1] = 9; }},
      {"page 8 is outside", [](StepPlan& p) { p.batch[0].pages[1] = 8; }},
      {"page -1 is outside", [](StepPlan& p) { p.batch[0].pages[0] = -1; }},
      {"positions 6 to 8", [](StepPlan& p) { p.batch[0].position = 6; }},
      {"positions -1 to", [](StepPlan& p) { p.batch[0].position = -1; }},
      {"outside its 2 pages",
       [](StepPlan& p) { p.batch[0].position = std::numeric_limits<int32_t>::max(); }},
      {"token id 100 is outside", [](StepPlan& p) { p.batch[0].tokens[2] = 100; }},
      {"token id -5 is outside", [](StepPlan& p) { p.batch[0].tokens[0] = -5; }},
      {"takes 1 token, not 3", [](StepPlan& p) { p.batch[0].from_previous_step = true; }},
      {"has no tokens", [](StepPlan& p) { p.batch[0].tokens.clear(); }},
      {"request-1 is in the batch twice", [](StepPlan& p) { p.batch[1].request = RequestId{1}; }},
      {"sampling temperature",
       [](StepPlan& p) {
         p.batch[1].sampling.temperature = std::numeric_limits<float>::quiet_NaN();
       }},
      {"sampling temperature", [](StepPlan& p) { p.batch[1].sampling.top_p = 1.5f; }},
  };
  for (const Case& c : cases) {
    StepPlan plan = GoodPlan();
    c.spoil(plan);
    const absl::Status status = CheckStepPlan(plan, kLimits);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
    EXPECT_THAT(std::string(status.message()), HasSubstr("step-7 of epoch-3"));
  }
}

}  // namespace
}  // namespace conclave
