#include "worker/engine/fake_engine.h"

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kVocab = 1000;

// Virtual time: runs what is scheduled in order of time, then of scheduling.
class FakeEngineTest : public ::testing::Test, public EngineListener {
 protected:
  void OnPrepared(Epoch, Prepared prepared) override { prepared_.push_back(prepared); }
  void OnConnected(Epoch epoch) override { connected_.push_back(epoch); }
  void OnLogits(Epoch, Logits logits) override { logits_.push_back(std::move(logits)); }
  void OnStepDone(Epoch, StepResult result) override { results_.push_back(std::move(result)); }
  void OnFault(Epoch, StepId step, absl::Status status) override {
    faults_.emplace_back(step, std::move(status));
  }

  FakeScheduler Scheduler() {
    return [this](absl::Duration delay, std::function<void()> work) {
      timers_.emplace(now_ + delay, std::move(work));
    };
  }
  void RunAll() {
    while (!timers_.empty()) {
      auto node = timers_.extract(timers_.begin());
      now_ = node.key();
      node.mapped()();
    }
  }
  Assign OneRank() {
    Assign assign;
    assign.shape.vocab = kVocab;
    assign.plan.spec = {};
    assign.cache.page_tokens = 4;
    assign.cache.pages_max = 16;
    return assign;
  }
  void Start() {
    engine_->Prepare(Epoch{1}, OneRank());
    RunAll();
    engine_->Connect(Epoch{1}, Commit{});
    RunAll();
  }
  StepPlan Plan(uint64_t step, std::vector<SequenceSlice> batch) {
    StepPlan plan;
    plan.epoch = Epoch{1};
    plan.step = StepId{step};
    int32_t tokens = 0;
    for (const SequenceSlice& slice : batch) tokens += slice.tokens.size();
    plan.tokens_by_dp = {tokens};
    plan.batch = std::move(batch);
    return plan;
  }
  SequenceSlice Slice(uint64_t request, int32_t position, std::vector<int32_t> tokens,
                      std::vector<int32_t> pages) {
    SequenceSlice slice;
    slice.request = RequestId{request};
    slice.position = position;
    slice.tokens = std::move(tokens);
    slice.pages = std::move(pages);
    slice.sample = true;
    return slice;
  }

  absl::Duration now_;
  std::multimap<absl::Duration, std::function<void()>> timers_;
  std::vector<Prepared> prepared_;
  std::vector<Epoch> connected_;
  std::vector<Logits> logits_;
  std::vector<StepResult> results_;
  std::vector<std::pair<StepId, absl::Status>> faults_;
  std::unique_ptr<FakeEngine> engine_ =
      std::make_unique<FakeEngine>(FakeEngineOptions{Scheduler()}, *this);
};

TEST_F(FakeEngineTest, ContinuesASequenceAsTheOracleDoes) {
  Start();
  ASSERT_EQ(prepared_.size(), 1u);
  EXPECT_EQ(prepared_[0].kv_pages, 16);
  EXPECT_EQ(connected_, std::vector<Epoch>{Epoch{1}});
  std::vector<int32_t> text = {5, 6, 7};
  engine_->RunStep(Plan(1, {Slice(1, 0, text, {9})}));
  SequenceSlice next = Slice(1, 3, {0}, {9});
  next.from_previous_step = true;
  engine_->RunStep(Plan(2, {next}));
  next.position = 4;
  next.pages = {9, 2};
  engine_->RunStep(Plan(3, {next}));
  RunAll();
  ASSERT_EQ(results_.size(), 3u) << (faults_.empty() ? "" : faults_[0].second.ToString());
  for (int i = 0; i < 3; ++i) {
    const int32_t want = FakeNextToken(text, kVocab);
    ASSERT_EQ(results_[i].tokens.size(), 1u);
    EXPECT_EQ(results_[i].tokens[0].token, want);
    EXPECT_EQ(results_[i].tokens[0].position, 3 + i);
    text.push_back(want);
  }
  EXPECT_THAT(faults_, IsEmpty());
}

TEST_F(FakeEngineTest, ChunksGiveTheSameToken) {
  Start();
  engine_->RunStep(Plan(1, {Slice(1, 0, {1, 2, 3}, {0})}));
  engine_->RunStep(Plan(2, {Slice(1, 3, {4, 5}, {0, 1})}));
  RunAll();
  ASSERT_EQ(results_.size(), 2u);
  EXPECT_EQ(results_[1].tokens[0].token, FakeNextToken({1, 2, 3, 4, 5}, kVocab));
}

TEST_F(FakeEngineTest, APageOwnedTwiceShowsInTheTokens) {
  Start();
  engine_->RunStep(Plan(1, {Slice(1, 0, {1, 2, 3}, {0}), Slice(2, 0, {7, 8}, {0})}));
  engine_->RunStep(Plan(2, {Slice(1, 3, {4}, {0})}));
  RunAll();
  ASSERT_EQ(results_.size(), 2u);
  EXPECT_NE(results_[1].tokens[0].token, FakeNextToken({1, 2, 3, 4}, kVocab));
}

TEST_F(FakeEngineTest, WrongPlansAreFaults) {
  Start();
  engine_->RunStep(Plan(1, {Slice(1, 0, {1}, {16})}));
  RunAll();
  ASSERT_EQ(faults_.size(), 1u);
  EXPECT_EQ(faults_[0].second.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(faults_[0].second.message()), HasSubstr("page 16"));
  engine_->RunStep(Plan(2, {Slice(1, 0, {1}, {1})}));
  RunAll();
  EXPECT_THAT(results_, IsEmpty());  // waits for Abort or Prepare
}

TEST_F(FakeEngineTest, FromPreviousStepNeedsASample) {
  Start();
  SequenceSlice slice = Slice(1, 0, {0}, {1});
  slice.from_previous_step = true;
  engine_->RunStep(Plan(1, {slice}));
  RunAll();
  ASSERT_EQ(faults_.size(), 1u);
  EXPECT_THAT(std::string(faults_[0].second.message()), HasSubstr("from_previous_step"));
}

TEST_F(FakeEngineTest, AbortFencesAndANewEpochForgetsTheCache) {
  Start();
  engine_->RunStep(Plan(1, {Slice(1, 0, {1}, {1})}));
  engine_->Abort(Epoch{1}, "test");
  RunAll();
  EXPECT_THAT(results_, IsEmpty());
  engine_->Prepare(Epoch{2}, OneRank());
  RunAll();
  engine_->Connect(Epoch{1}, Commit{});  // stale
  RunAll();
  EXPECT_EQ(connected_.size(), 1u);
  engine_->Connect(Epoch{2}, Commit{});
  RunAll();
  EXPECT_EQ(connected_.size(), 2u);
}

TEST_F(FakeEngineTest, HangStopsProgressAndDestructionSilencesIt) {
  Start();
  engine_->RunStep(Plan(1, {Slice(1, 0, {1}, {1})}));
  engine_->Hang();
  const uint64_t before = engine_->progress();
  RunAll();
  EXPECT_EQ(engine_->progress(), before);
  engine_ = std::make_unique<FakeEngine>(FakeEngineOptions{Scheduler()}, *this);
  Start();
  engine_->RunStep(Plan(1, {Slice(1, 0, {1}, {1})}));
  engine_.reset();
  RunAll();
  EXPECT_THAT(results_, IsEmpty());
}

TEST_F(FakeEngineTest, LogitsNameTheNextToken) {
  Start();
  SequenceSlice slice = Slice(1, 0, {4, 5}, {1});
  slice.want_logits = true;
  engine_->RunStep(Plan(1, {slice}));
  RunAll();
  ASSERT_EQ(logits_.size(), 1u);
  ASSERT_EQ(logits_[0].values.size(), 2u * kVocab);
  EXPECT_EQ(logits_[0].values[FakeNextToken({4}, kVocab)], 1.0f);
  EXPECT_EQ(logits_[0].values[kVocab + FakeNextToken({4, 5}, kVocab)], 1.0f);
}

}  // namespace
}  // namespace conclave
