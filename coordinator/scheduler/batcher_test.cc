#include "coordinator/scheduler/batcher.h"

#include <algorithm>
#include <deque>
#include <map>
#include <string>

#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kVocab = 97;

// A next token that depends on the whole prefix.
int32_t Next(const std::vector<int32_t>& prefix) {
  uint64_t h = prefix.size();
  for (int32_t token : prefix) h = (h ^ token) * 0x9e3779b97f4a7c15ULL + 1;
  return static_cast<int32_t>((h >> 33) % kVocab);
}

// What workers do with plans: stores tokens in pages and reads the prefix back through the block
// table, so that a wrong table or a page owned twice gives a wrong token.
class TestWorker {
 public:
  TestWorker(int groups, int pages, int page_tokens)
      : page_tokens_(page_tokens), cells_(groups, std::vector<int32_t>(pages * page_tokens, -1)) {}

  std::vector<SampledToken> Run(const PlannedStep& step) {
    std::vector<SampledToken> tokens;
    std::map<RequestId, int32_t> sampled;
    for (size_t group = 0; group < step.by_dp.size(); ++group) {
      int32_t count = 0;
      for (const SequenceSlice& slice : step.by_dp[group].batch) {
        count += static_cast<int32_t>(slice.tokens.size());
        RunSlice(slice, &cells_[group], &tokens, &sampled);
      }
      EXPECT_EQ(step.by_dp[group].tokens_by_dp[group], count);
    }
    previous_ = std::move(sampled);
    return tokens;
  }

 private:
  void RunSlice(const SequenceSlice& slice, std::vector<int32_t>* cells,
                std::vector<SampledToken>* tokens, std::map<RequestId, int32_t>* sampled) {
    std::vector<int32_t> input = slice.tokens;
    if (slice.from_previous_step) {
      ASSERT_EQ(previous_.count(slice.request), 1u) << slice.request;
      input = {previous_.at(slice.request)};
    }
    const auto cell = [&](int position) -> int32_t& {
      return (
          *cells)[slice.pages.at(position / page_tokens_) * page_tokens_ + position % page_tokens_];
    };
    const int end = slice.position + static_cast<int>(input.size());
    for (int i = slice.position; i < end; ++i) cell(i) = input[i - slice.position];
    if (!slice.sample) return;
    std::vector<int32_t> prefix;
    for (int i = 0; i < end; ++i) prefix.push_back(cell(i));
    (*sampled)[slice.request] = Next(prefix);
    tokens->push_back({slice.request, end, Next(prefix), 0});
  }

  const int page_tokens_;
  std::vector<std::vector<int32_t>> cells_;  // [groups][pages * page_tokens]
  std::map<RequestId, int32_t> previous_;
};

GenerationRequest Request(int prompt, int tokens_max) {
  GenerationRequest request;
  for (int i = 0; i < prompt; ++i) request.prompt.push_back((prompt * 7 + i * i) % kVocab);
  request.tokens_max = tokens_max;
  return request;
}

std::vector<int32_t> Oracle(const GenerationRequest& request) {
  std::vector<int32_t> all = request.prompt;
  std::vector<int32_t> generated;
  while (static_cast<int>(generated.size()) < request.tokens_max) {
    generated.push_back(Next(all));
    all.push_back(generated.back());
    const auto& stops = request.stop_token_ids;
    if (std::find(stops.begin(), stops.end(), all.back()) != stops.end()) break;
  }
  return generated;
}

BatcherOptions Small() {
  return {.batch_tokens_max = 8,
          .sequences_max = 4,
          .waiting_max = 64,
          .page_tokens = 4,
          .context_tokens = 64};
}

// Drives a batcher with up to `ahead` steps in flight until it is idle.
class Driver {
 public:
  Driver(BatcherOptions options, int groups, int pages, int ahead = 2)
      : batcher(options), worker_(groups, pages, options.page_tokens), ahead_(ahead) {
    batcher.BeginEpoch(Epoch{1}, std::vector<int>(groups, pages));
  }

  // One decision: plan a step if possible, else complete one. False when there is nothing to do.
  bool Advance() {
    if (batcher.in_flight() < ahead_) {
      if (std::optional<PlannedStep> step = batcher.NextPlan()) {
        in_flight_.push_back(*step);
        plans.push_back(*std::move(step));
        return true;
      }
    }
    if (in_flight_.empty()) return false;
    StepOutcome outcome;
    const auto tokens = worker_.Run(in_flight_.front());
    EXPECT_TRUE(batcher.Complete(in_flight_.front().step, tokens, &outcome).ok());
    in_flight_.pop_front();
    for (const SampledToken& token : outcome.tokens) {
      EXPECT_EQ(ended.count(token.request), 0u);
      generated[token.request].push_back(token.token);
    }
    for (const auto& end : outcome.ended) {
      EXPECT_TRUE(ended.emplace(end.request, end.reason).second);
    }
    return true;
  }

  void RunAll() {
    for (int i = 0; i < 100000; ++i) {
      if (!Advance()) return;
    }
    FAIL() << "it does not come to an end";
  }

  Batcher batcher;
  std::vector<PlannedStep> plans;
  std::map<RequestId, std::vector<int32_t>> generated;
  std::map<RequestId, FinishReason> ended;

 private:
  TestWorker worker_;
  const int ahead_;
  std::deque<PlannedStep> in_flight_;
};

TEST(BatcherTest, GeneratesWhatTheOracleSays) {
  Driver driver(Small(), 1, 16);
  const GenerationRequest request = Request(11, 9);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, request).ok());
  driver.RunAll();
  EXPECT_EQ(driver.generated[RequestId{1}], Oracle(request));
  EXPECT_EQ(driver.ended[RequestId{1}], FinishReason::kLength);
  EXPECT_EQ(driver.batcher.pages().free(0), 16);
  // 11 prompt tokens in chunks of 8, then a token each; no step is wasted at the end.
  EXPECT_EQ(driver.plans.size(), 2u + 8u);
}

TEST(BatcherTest, DecodesOneStepAhead) {
  Driver driver(Small(), 1, 16);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, Request(2, 4)).ok());
  auto first = driver.batcher.NextPlan();
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->by_dp[0].batch[0].sample);
  auto second = driver.batcher.NextPlan();
  ASSERT_TRUE(second.has_value());
  EXPECT_TRUE(second->by_dp[0].batch[0].from_previous_step);
  EXPECT_EQ(second->by_dp[0].batch[0].position, 2);
  EXPECT_FALSE(driver.batcher.NextPlan().has_value());
}

TEST(BatcherTest, StopTokenIsFoundOneStepLateAndTheExtraTokenDropped) {
  GenerationRequest request = Request(5, 20);
  request.stop_token_ids = {Oracle(request)[3]};
  Driver driver(Small(), 1, 16);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, request).ok());
  driver.RunAll();
  EXPECT_EQ(driver.generated[RequestId{1}], Oracle(request));
  EXPECT_EQ(driver.ended[RequestId{1}], FinishReason::kStop);
  EXPECT_EQ(driver.batcher.pages().free(0), 16);
}

TEST(BatcherTest, PagesOfAnEndedSequenceStayUntilItsLastStepIsDone) {
  Driver driver(Small(), 1, 16);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, Request(4, 20)).ok());
  driver.Advance();
  driver.Advance();
  ASSERT_EQ(driver.batcher.in_flight(), 2);
  ASSERT_TRUE(driver.batcher.Cancel(RequestId{1}));
  EXPECT_FALSE(driver.batcher.Cancel(RequestId{1}));
  EXPECT_LT(driver.batcher.pages().free(0), 16);
  EXPECT_EQ(driver.batcher.running(), 0);
  driver.RunAll();
  EXPECT_EQ(driver.plans.size(), 2u);
  EXPECT_EQ(driver.batcher.pages().free(0), 16);
  EXPECT_TRUE(driver.generated.empty());
}

TEST(BatcherTest, DecodesGoBeforePrefills) {
  Driver driver(Small(), 1, 32);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, Request(3, 10)).ok());
  driver.Advance();
  ASSERT_TRUE(driver.batcher.Add(RequestId{2}, Request(30, 2)).ok());
  driver.Advance();
  const StepPlan& plan = driver.plans.back().by_dp[0];
  ASSERT_EQ(plan.batch.size(), 2u);
  EXPECT_EQ(plan.batch[0].request, RequestId{1});
  EXPECT_EQ(plan.batch[0].tokens.size(), 1u);
  EXPECT_EQ(plan.batch[1].tokens.size(), 7u);
  EXPECT_FALSE(plan.batch[1].sample);
}

TEST(BatcherTest, SpreadsOverGroupsAndStepsInLockstep) {
  Driver driver(Small(), 2, 16);
  for (uint64_t id = 1; id <= 4; ++id) {
    ASSERT_TRUE(driver.batcher.Add(RequestId{id}, Request(2, 3)).ok());
  }
  driver.Advance();
  const PlannedStep& step = driver.plans.back();
  EXPECT_EQ(step.by_dp[0].batch.size(), 2u);
  EXPECT_EQ(step.by_dp[1].batch.size(), 2u);
  EXPECT_EQ(step.by_dp[0].tokens_by_dp, (std::vector<int32_t>{4, 4}));
  EXPECT_EQ(step.by_dp[1].step, step.by_dp[0].step);
}

TEST(BatcherTest, NoStepWithoutWork) {
  Driver driver(Small(), 2, 16);
  EXPECT_FALSE(driver.batcher.NextPlan().has_value());
  Batcher idle(Small());
  ASSERT_TRUE(idle.Add(RequestId{1}, Request(2, 3)).ok());
  EXPECT_FALSE(idle.NextPlan().has_value());  // no epoch
}

TEST(BatcherTest, PreemptsTheLatestArrivalAndComputesItAgain) {
  Driver driver(Small(), 1, 8);
  std::map<RequestId, GenerationRequest> requests;
  for (uint64_t id = 1; id <= 3; ++id) {
    requests[RequestId{id}] = Request(3 + static_cast<int>(id), 20);
    ASSERT_TRUE(driver.batcher.Add(RequestId{id}, requests[RequestId{id}]).ok());
  }
  driver.RunAll();
  for (const auto& [id, request] : requests) EXPECT_EQ(driver.generated[id], Oracle(request)) << id;
  int64_t computed = 0;
  for (const PlannedStep& step : driver.plans) computed += step.by_dp[0].tokens_by_dp[0];
  EXPECT_GT(computed, (4 + 5 + 6) + 3 * 19);  // something was computed twice
  EXPECT_EQ(driver.batcher.pages().free(0), 8);
}

TEST(BatcherTest, LogitsOfEveryPromptPositionOnce) {
  Driver driver(Small(), 1, 8);
  GenerationRequest logits = Request(13, 0);
  logits.want_logits = true;
  GenerationRequest both = Request(9, 18);
  both.want_logits = true;
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, Request(4, 20)).ok());
  ASSERT_TRUE(driver.batcher.Add(RequestId{2}, both).ok());
  ASSERT_TRUE(driver.batcher.Add(RequestId{3}, logits).ok());
  driver.RunAll();
  std::map<RequestId, std::vector<int>> seen;
  for (const PlannedStep& step : driver.plans) {
    for (const SequenceSlice& slice : step.by_dp[0].batch) {
      if (!slice.want_logits) continue;
      for (size_t i = 0; i < slice.tokens.size(); ++i) {
        seen[slice.request].push_back(slice.position + static_cast<int>(i));
      }
    }
  }
  EXPECT_EQ(seen.count(RequestId{1}), 0u);
  ASSERT_EQ(seen[RequestId{2}].size(), 9u);
  ASSERT_EQ(seen[RequestId{3}].size(), 13u);
  for (int i = 0; i < 13; ++i) EXPECT_EQ(seen[RequestId{3}][i], i);
  EXPECT_EQ(driver.ended[RequestId{3}], FinishReason::kLength);
  EXPECT_EQ(driver.generated.count(RequestId{3}), 0u);
  EXPECT_EQ(driver.generated[RequestId{2}], Oracle(both));
}

TEST(BatcherTest, RefusesWhatCannotBeServed) {
  Driver driver(Small(), 2, 8);
  Batcher& batcher = driver.batcher;
  EXPECT_EQ(batcher.Add(RequestId{1}, Request(60, 5)).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(batcher.Add(RequestId{1}, Request(30, 4)).code(), absl::StatusCode::kResourceExhausted);
  EXPECT_TRUE(batcher.Add(RequestId{1}, Request(30, 3)).ok());
  for (uint64_t id = 2; id <= 64; ++id) ASSERT_TRUE(batcher.Add(RequestId{id}, Request(1, 1)).ok());
  EXPECT_EQ(batcher.Add(RequestId{65}, Request(1, 1)).code(), absl::StatusCode::kResourceExhausted);
}

TEST(BatcherTest, WrongTokensAreTheWorkersFault) {
  Driver driver(Small(), 1, 8);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, Request(3, 3)).ok());
  ASSERT_TRUE(driver.batcher.NextPlan().has_value());
  StepOutcome outcome;
  Batcher& batcher = driver.batcher;
  EXPECT_FALSE(batcher.Complete(StepId{1}, {}, &outcome).ok());
  EXPECT_FALSE(batcher.Complete(StepId{1}, {{RequestId{1}, 4, 0, 0}}, &outcome).ok());
  const std::vector<SampledToken> too_many = {{RequestId{1}, 3, 0, 0}, {RequestId{2}, 3, 0, 0}};
  EXPECT_FALSE(batcher.Complete(StepId{1}, too_many, &outcome).ok());
  EXPECT_TRUE(batcher.Complete(StepId{1}, {{RequestId{1}, 3, 0, 0}}, &outcome).ok());
}

TEST(BatcherTest, AnEpochEndsWhatHasStartedAndKeepsTheRest) {
  BatcherOptions options = Small();
  options.sequences_max = 1;
  Driver driver(options, 1, 8);
  ASSERT_TRUE(driver.batcher.Add(RequestId{1}, Request(3, 3)).ok());
  ASSERT_TRUE(driver.batcher.Add(RequestId{2}, Request(3, 3)).ok());
  ASSERT_TRUE(driver.batcher.Add(RequestId{3}, Request(20, 3)).ok());
  ASSERT_TRUE(driver.batcher.NextPlan().has_value());
  EXPECT_EQ(driver.batcher.EndEpoch(), (std::vector<RequestId>{{1}}));
  EXPECT_EQ(driver.batcher.waiting(), 2);
  EXPECT_FALSE(driver.batcher.NextPlan().has_value());
  EXPECT_EQ(driver.batcher.BeginEpoch(Epoch{2}, {4}), (std::vector<RequestId>{{3}}));
  const auto step = driver.batcher.NextPlan();
  ASSERT_TRUE(step.has_value());
  EXPECT_EQ(step->step, StepId{1});
  EXPECT_EQ(step->by_dp[0].epoch, Epoch{2});
  EXPECT_EQ(step->by_dp[0].batch[0].request, RequestId{2});
}

// Requests of every kind arrive and are cancelled at random while pages are short.
TEST(BatcherTest, RandomTrafficMatchesTheOracle) {
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    Rng rng(seed);
    const int groups = 1 + static_cast<int>(rng.Below(3));
    const int pages = 6 + static_cast<int>(rng.Below(12));
    BatcherOptions options = Small();
    options.batch_tokens_max = 1 + static_cast<int>(rng.Below(12));
    Driver driver(options, groups, pages, 1 + static_cast<int>(rng.Below(2)));
    std::map<RequestId, GenerationRequest> requests;
    std::set<RequestId> cancelled;
    for (uint64_t id = 1; id <= 40; ++id) {
      GenerationRequest request = Request(1 + rng.Below(12), 1 + rng.Below(10));
      request.stop_token_ids = {static_cast<int32_t>(rng.Below(kVocab)), 5, 6, 7};
      ASSERT_TRUE(driver.batcher.Add(RequestId{id}, request).ok());
      requests[RequestId{id}] = request;
      for (uint64_t i = rng.Below(4); i > 0; --i) driver.Advance();
      const RequestId victim{1 + rng.Below(id)};
      if (rng.Chance(1, 8) && driver.batcher.Cancel(victim)) cancelled.insert(victim);
    }
    driver.RunAll();
    for (const auto& [id, request] : requests) {
      const std::vector<int32_t> oracle = Oracle(request);
      std::vector<int32_t>& got = driver.generated[id];
      ASSERT_EQ(driver.ended.count(id) + cancelled.count(id), 1u) << seed << " " << id;
      if (cancelled.count(id) == 0) {
        ASSERT_EQ(got, oracle) << seed << " " << id;
      } else {
        ASSERT_LE(got.size(), oracle.size());
        ASSERT_TRUE(std::equal(got.begin(), got.end(), oracle.begin())) << seed << " " << id;
      }
    }
    for (int group = 0; group < groups; ++group) ASSERT_EQ(driver.batcher.pages().used(group), 0);
  }
}

}  // namespace
}  // namespace conclave
