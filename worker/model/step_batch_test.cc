#include "worker/model/step_batch.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

StepPlan MixedPlan() {
  StepPlan plan;
  SequenceSlice prompt;
  prompt.request = RequestId{1};
  prompt.position = 4;
  prompt.tokens = {10, 11, 12};
  prompt.pages = {3, 1};
  prompt.want_logits = true;
  SequenceSlice decode;
  decode.request = RequestId{2};
  decode.position = 9;
  decode.tokens = {0};
  decode.from_previous_step = true;
  decode.pages = {5, 6, 0};
  decode.sample = true;
  SequenceSlice chunk;
  chunk.request = RequestId{3};
  chunk.tokens = {20, 21};
  chunk.pages = {2};
  plan.batch = {prompt, decode, chunk};
  return plan;
}

TEST(StepBatchTest, FlattensAPlan) {
  const StepPlan plan = MixedPlan();
  const SampledBefore before = {{RequestId{2}, 77}};
  StepBatch batch;
  for (int again = 0; again < 2; ++again) {
    ASSERT_TRUE(batch.Build(plan, &before).ok());
    EXPECT_EQ(batch.tokens(), 6);
    EXPECT_THAT(batch.ids(), ElementsAre(10, 11, 12, 77, 20, 21));
    EXPECT_THAT(batch.positions(), ElementsAre(4, 5, 6, 9, 0, 1));
    EXPECT_THAT(batch.paged().first_token, ElementsAre(0, 3, 4, 6));
    EXPECT_THAT(batch.paged().position, ElementsAre(4, 9, 0));
    EXPECT_THAT(batch.paged().first_page, ElementsAre(0, 2, 5, 6));
    EXPECT_THAT(batch.paged().page_table, ElementsAre(3, 1, 5, 6, 0, 2));
    ASSERT_EQ(batch.head_rows().size(), 4u);
    EXPECT_EQ(batch.samples(), 1);
    EXPECT_EQ(batch.head_rows()[2].token, 2);
    EXPECT_EQ(batch.head_rows()[2].position, 6);
    EXPECT_FALSE(batch.head_rows()[2].sample);
    EXPECT_EQ(batch.head_rows()[3].token, 3);
    EXPECT_TRUE(batch.head_rows()[3].sample);
    EXPECT_FALSE(batch.head_rows()[3].report);
  }
}

TEST(StepBatchTest, RanksThatDoNotEmbedNeedNoTokens) {
  const StepPlan plan = MixedPlan();
  StepBatch batch;
  ASSERT_TRUE(batch.Build(plan, nullptr).ok());
  EXPECT_EQ(batch.tokens(), 6);
}

TEST(StepBatchTest, AMissingSampleIsNamed) {
  const StepPlan plan = MixedPlan();
  const SampledBefore before;
  StepBatch batch;
  const absl::Status status = batch.Build(plan, &before);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("request-2"));
}

TEST(StepBatchTest, AnEmptyPlanIsABatchOfNothing) {
  const StepPlan plan;
  StepBatch batch;
  ASSERT_TRUE(batch.Build(plan, nullptr).ok());
  EXPECT_EQ(batch.tokens(), 0);
  EXPECT_EQ(batch.paged().sequences(), 0);
}

}  // namespace
}  // namespace conclave
