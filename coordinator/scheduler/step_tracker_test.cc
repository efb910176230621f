#include "coordinator/scheduler/step_tracker.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kVocab = 10;
const absl::Time kStart = absl::FromUnixSeconds(1000);

PlannedStep Planned(uint64_t step, int logits_positions = 0) {
  PlannedStep planned;
  planned.step = StepId{step};
  planned.by_dp.resize(2);
  for (StepPlan& plan : planned.by_dp) plan.step = planned.step;
  SequenceSlice slice;
  slice.request = RequestId{7};
  slice.position = 2;
  slice.tokens.assign(std::max(1, logits_positions), 0);
  slice.want_logits = logits_positions > 0;
  planned.by_dp[1].batch.push_back(slice);
  return planned;
}

StepResult Result(uint64_t step, std::vector<SampledToken> tokens = {}) {
  StepResult result;
  result.step = StepId{step};
  result.tokens = std::move(tokens);
  return result;
}

Logits LogitsOf(uint64_t step, int position, int count) {
  Logits logits;
  logits.step = StepId{step};
  logits.request = RequestId{7};
  logits.position = position;
  logits.vocab = kVocab;
  logits.values.assign(count * kVocab, 0.5f);
  return logits;
}

// tp = 2, dp = 2: ranks 0 and 2 report tokens.
class StepTrackerTest : public ::testing::Test {
 protected:
  StepTracker tracker_{ParallelSpec{.tp = 2, .dp = 2}, {.vocab = kVocab}};
};

TEST_F(StepTrackerTest, CompleteWhenAllRanksAnswered) {
  tracker_.Add(Planned(1), kStart);
  EXPECT_TRUE(tracker_.OnStepDone(0, Result(1)).value());
  EXPECT_TRUE(tracker_.OnStepDone(1, Result(1)).value());
  EXPECT_TRUE(tracker_.OnStepDone(2, Result(1, {{RequestId{7}, 3, 4, 0}})).value());
  EXPECT_FALSE(tracker_.OnStepDone(2, Result(1)).value());  // a repetition
  EXPECT_FALSE(tracker_.PopComplete().has_value());
  EXPECT_TRUE(tracker_.OnStepDone(3, Result(1)).value());
  const auto complete = tracker_.PopComplete();
  ASSERT_TRUE(complete.has_value());
  ASSERT_EQ(complete->tokens.size(), 1u);
  EXPECT_EQ(complete->tokens[0].token, 4);
  EXPECT_TRUE(tracker_.empty());
  EXPECT_FALSE(tracker_.OnStepDone(3, Result(1)).value());  // late
}

TEST_F(StepTrackerTest, StepsCompleteInOrder) {
  tracker_.Add(Planned(1), kStart);
  tracker_.Add(Planned(2), kStart);
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(tracker_.OnStepDone(rank, Result(2)).value());
  EXPECT_FALSE(tracker_.PopComplete().has_value());
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(tracker_.OnStepDone(rank, Result(1)).value());
  EXPECT_EQ(tracker_.PopComplete()->step, StepId{1});
  EXPECT_EQ(tracker_.PopComplete()->step, StepId{2});
}

TEST_F(StepTrackerTest, LogitsArriveInAnyOrderAndAreGivenInOrder) {
  tracker_.Add(Planned(1, 5), kStart);
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(tracker_.OnStepDone(rank, Result(1)).value());
  EXPECT_TRUE(tracker_.OnLogits(2, LogitsOf(1, 4, 3)).value());
  EXPECT_FALSE(tracker_.OnLogits(2, LogitsOf(1, 4, 3)).value());
  EXPECT_FALSE(tracker_.PopComplete().has_value());
  EXPECT_TRUE(tracker_.OnLogits(2, LogitsOf(1, 2, 2)).value());
  const auto complete = tracker_.PopComplete();
  ASSERT_TRUE(complete.has_value());
  ASSERT_EQ(complete->logits.size(), 2u);
  EXPECT_EQ(complete->logits[0].position, 2);
  EXPECT_EQ(complete->logits[1].position, 4);
}

TEST_F(StepTrackerTest, NonsenseIsRefused) {
  tracker_.Add(Planned(1, 5), kStart);
  EXPECT_FALSE(tracker_.OnStepDone(0, Result(2)).ok());
  EXPECT_FALSE(tracker_.OnStepDone(0, Result(0)).ok());
  EXPECT_FALSE(tracker_.OnStepDone(1, Result(1, {{RequestId{7}, 3, 4, 0}})).ok());
  EXPECT_FALSE(tracker_.OnStepDone(2, Result(1, {{RequestId{7}, 3, kVocab, 0}})).ok());
  EXPECT_FALSE(tracker_.OnStepDone(2, Result(1, {{RequestId{7}, 3, -1, 0}})).ok());
  EXPECT_FALSE(tracker_.OnLogits(1, LogitsOf(1, 2, 2)).ok());
  EXPECT_FALSE(tracker_.OnLogits(2, LogitsOf(1, 1, 2)).ok());
  EXPECT_FALSE(tracker_.OnLogits(2, LogitsOf(1, 6, 2)).ok());
  EXPECT_FALSE(tracker_.OnLogits(2, LogitsOf(1, 2, 0)).ok());
  Logits other = LogitsOf(1, 2, 2);
  other.request = RequestId{8};
  EXPECT_FALSE(tracker_.OnLogits(2, other).ok());
  other = LogitsOf(1, 2, 2);
  other.vocab = 2 * kVocab;
  EXPECT_FALSE(tracker_.OnLogits(2, other).ok());
  EXPECT_TRUE(tracker_.OnLogits(2, LogitsOf(1, 3, 2)).ok());
  EXPECT_FALSE(tracker_.OnLogits(2, LogitsOf(1, 2, 2)).ok());
  EXPECT_FALSE(tracker_.OnLogits(2, LogitsOf(1, 4, 2)).ok());
}

TEST_F(StepTrackerTest, RepeatsWhatIsNotAnswered) {
  tracker_.Add(Planned(1), kStart);
  EXPECT_TRUE(tracker_.DueSteps(kStart + absl::Milliseconds(200)).empty());
  EXPECT_TRUE(tracker_.OnStepDone(0, Result(1)).ok());
  tracker_.OnHeartbeat(1, {.last_step = StepId{0}, .steps_queued = 1});  // has it
  tracker_.OnHeartbeat(2, {.last_step = StepId{1}, .steps_queued = 0});  // its answer was lost
  const auto due = tracker_.DueSteps(kStart + absl::Milliseconds(250));
  ASSERT_EQ(due.size(), 2u);
  EXPECT_EQ(due[0].rank, 2);
  EXPECT_EQ(due[1].rank, 3);
  EXPECT_EQ(due[1].plan->batch.size(), 1u);
  EXPECT_TRUE(tracker_.DueSteps(kStart + absl::Milliseconds(700)).empty());  // twice as long now
  EXPECT_EQ(tracker_.DueSteps(kStart + absl::Milliseconds(750)).size(), 2u);
}

TEST_F(StepTrackerTest, RepeatsForLostLogits) {
  tracker_.Add(Planned(1, 5), kStart);
  for (int rank = 0; rank < 4; ++rank) EXPECT_TRUE(tracker_.OnStepDone(rank, Result(1)).value());
  const auto due = tracker_.DueSteps(kStart + absl::Seconds(1));
  ASSERT_EQ(due.size(), 2u);  // both ranks that report
  EXPECT_EQ(due[1].rank, 2);
}

}  // namespace
}  // namespace conclave
