#include "coordinator/request/serving_loop.h"

#include <algorithm>
#include <utility>

#include "comm/base/status.h"
#include "coordinator/request/request_check.h"
#include "glog/logging.h"

namespace conclave {
namespace {

void AddTotals(const StepResult& result, RankTotals* totals) {
  ExchangeStats& sum = totals->exchange;
  const ExchangeStats& step = result.exchange;
  sum.exchanges += step.exchanges;
  sum.peers_max = std::max(sum.peers_max, step.peers_max);
  sum.messages += step.messages;
  sum.bytes += step.bytes;
  sum.naive_peers_max = std::max(sum.naive_peers_max, step.naive_peers_max);
  sum.naive_messages += step.naive_messages;
  sum.naive_bytes += step.naive_bytes;
  sum.gather_bytes += step.gather_bytes;
  totals->last_step = result.timings;
  totals->weight_bytes_read += result.weight_bytes_read;
}

}  // namespace

ServingLoop::ServingLoop(Options options)
    : options_(std::move(options)), batcher_(options_.batcher), experts_(options_.shape) {}

void ServingLoop::BeginEpoch(const ParallelPlan& plan, const std::vector<int>& pages_by_group) {
  CHECK(!tracker_.has_value());
  spec_ = plan.spec;
  tracker_.emplace(spec_, options_.tracker);
  ranks_.assign(spec_.WorkerCount(), {});
  for (RequestId id : batcher_.BeginEpoch(plan.epoch, pages_by_group)) {
    requests_.Finish(id, FinishReason::kError,
                     absl::ResourceExhaustedError(
                         "the request is longer than the KV pages of the new placement; shorten it "
                         "or give the workers more memory"));
  }
}

void ServingLoop::EndEpoch(const absl::Status& why) {
  tracker_.reset();
  for (RequestId id : batcher_.EndEpoch()) requests_.Finish(id, FinishReason::kError, why);
}

void ServingLoop::Submit(RequestId id, GenerationRequest request,
                         std::shared_ptr<GenerationSink> sink, absl::Time now) {
  absl::Status status = CheckRequest(request, options_.shape);
  if (status.ok()) {
    if (!request.ignore_eos) {
      const std::vector<int>& eos = options_.shape.eos_token_ids;
      request.stop_token_ids.insert(request.stop_token_ids.end(), eos.begin(), eos.end());
    }
    status = batcher_.Add(id, request);
  }
  if (!status.ok()) {
    sink->OnFinish(FinishReason::kError, status);
    return;
  }
  requests_.Add(id, request.prompt.size(), std::move(sink), now);
}

void ServingLoop::Cancel(RequestId id) {
  if (batcher_.Cancel(id)) requests_.Finish(id, FinishReason::kCancelled, absl::OkStatus());
}

void ServingLoop::FailSubmittedBefore(absl::Time time, const absl::Status& why) {
  for (RequestId id : requests_.SubmittedBefore(time)) {
    batcher_.Cancel(id);
    requests_.Finish(id, FinishReason::kError, why);
  }
}

void ServingLoop::Pump(absl::Time now, const SendStep& send) {
  if (!tracker_.has_value()) return;
  for (const StepTracker::Due& due : tracker_->DueSteps(now)) send(due.rank, *due.plan);
  while (std::optional<PlannedStep> step = batcher_.NextPlan()) {
    for (int rank = 0; rank < spec_.WorkerCount(); ++rank) {
      send(rank, step->by_dp[spec_.PositionOf(rank).dp]);
    }
    tracker_->Add(*std::move(step), now);
  }
}

absl::Status ServingLoop::OnStepDone(int rank, const StepResult& result) {
  if (!tracker_.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool is_new, tracker_->OnStepDone(rank, result));
  if (!is_new) return absl::OkStatus();
  RETURN_IF_ERROR(experts_.Add(result));
  AddTotals(result, &ranks_[rank]);
  return TakeComplete();
}

absl::Status ServingLoop::OnLogits(int rank, Logits logits) {
  if (!tracker_.has_value()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const bool is_new, tracker_->OnLogits(rank, std::move(logits)));
  return is_new ? TakeComplete() : absl::OkStatus();
}

void ServingLoop::OnHeartbeat(int rank, const Heartbeat& heartbeat) {
  if (tracker_.has_value()) tracker_->OnHeartbeat(rank, heartbeat);
}

absl::Status ServingLoop::TakeComplete() {
  while (std::optional<CompleteStep> step = tracker_->PopComplete()) {
    StepOutcome outcome;
    RETURN_IF_ERROR(batcher_.Complete(step->step, step->tokens, &outcome));
    ++steps_;
    for (const Logits& logits : step->logits) requests_.OnLogits(logits);
    for (const SampledToken& token : outcome.tokens) requests_.OnToken(token);
    for (const StepOutcome::Ended& ended : outcome.ended) {
      requests_.Finish(ended.request, ended.reason, absl::OkStatus());
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
