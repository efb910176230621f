#include "coordinator/scheduler/step_tracker.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

absl::Status Refuse(int rank, StepId step, const std::string& what) {
  return absl::InvalidArgumentError(
      absl::StrFormat("rank %d answered %s with %s", rank, step.ToString(), what));
}

}  // namespace

StepTracker::StepTracker(const ParallelSpec& spec, Options options)
    : spec_(spec), options_(options), finished_(spec.WorkerCount()), held_(spec.WorkerCount()) {}

void StepTracker::Add(PlannedStep step, absl::Time now) {
  CHECK_EQ(step.step, last_added_.Next());
  last_added_ = step.step;
  InFlight entry;
  entry.done.resize(spec_.WorkerCount());
  entry.missing = spec_.WorkerCount();
  entry.tokens.resize(spec_.dp);
  for (const StepPlan& plan : step.by_dp) {
    for (const SequenceSlice& slice : plan.batch) {
      if (!slice.want_logits) continue;
      const int end = slice.position + static_cast<int>(slice.tokens.size());
      entry.logits[slice.request] = {slice.position, end, {}};
      entry.logits_missing += static_cast<int>(slice.tokens.size());
    }
  }
  entry.resend_after = options_.resend_after;
  entry.resend_at = now + entry.resend_after;
  entry.planned = std::move(step);
  steps_.push_back(std::move(entry));
}

bool StepTracker::Reports(int rank) const {
  const GridPosition at = spec_.PositionOf(rank);
  return at.pp == spec_.pp - 1 && at.tp == 0;
}

absl::StatusOr<StepTracker::InFlight*> StepTracker::Find(int rank, StepId step) {
  if (step > last_added_ || step.value == 0) return Refuse(rank, step, "what was never asked");
  for (InFlight& entry : steps_) {
    if (entry.planned.step == step) return &entry;
  }
  return nullptr;
}

absl::StatusOr<bool> StepTracker::OnStepDone(int rank, const StepResult& result) {
  ASSIGN_OR_RETURN(InFlight * entry, Find(rank, result.step));
  if (entry == nullptr || entry->done[rank]) return false;
  if (!result.tokens.empty() && !Reports(rank)) {
    return Refuse(rank, result.step, "tokens, which only tp rank 0 of the last stage reports");
  }
  for (const SampledToken& token : result.tokens) {
    if (token.token < 0 || token.token >= options_.vocab) {
      return Refuse(rank, result.step,
                    absl::StrFormat("token %d of %s, outside the vocabulary of %d", token.token,
                                    token.request.ToString(), options_.vocab));
    }
  }
  entry->done[rank] = true;
  --entry->missing;
  if (Reports(rank)) entry->tokens[spec_.PositionOf(rank).dp] = result.tokens;
  return true;
}

absl::StatusOr<bool> StepTracker::OnLogits(int rank, Logits logits) {
  ASSIGN_OR_RETURN(InFlight * entry, Find(rank, logits.step));
  if (entry == nullptr) return false;
  const auto it = entry->logits.find(logits.request);
  const bool wide = logits.vocab == options_.vocab && !logits.values.empty() &&
                    logits.values.size() % logits.vocab == 0;
  if (!Reports(rank) || it == entry->logits.end() || !wide) {
    return Refuse(rank, logits.step,
                  absl::StrFormat("%d logits of %s with a vocabulary of %d, which nobody asked for",
                                  logits.values.size(), logits.request.ToString(), logits.vocab));
  }
  LogitsWanted& wanted = it->second;
  const int64_t count = logits.values.size() / logits.vocab;
  const int64_t end = logits.position + count;
  const auto next = wanted.pieces.lower_bound(logits.position);
  if (next != wanted.pieces.end() && next->first == logits.position) return false;
  const bool overlaps_next = next != wanted.pieces.end() && next->first < end;
  const bool overlaps_last =
      next != wanted.pieces.begin() &&
      std::prev(next)->first +
              static_cast<int64_t>(std::prev(next)->second.values.size()) / options_.vocab >
          logits.position;
  if (logits.position < wanted.begin || end > wanted.end || overlaps_next || overlaps_last) {
    return Refuse(rank, logits.step,
                  absl::StrFormat("logits of %s for positions %d to %d, twice or not in %d to %d",
                                  logits.request.ToString(), logits.position, end - 1, wanted.begin,
                                  wanted.end - 1));
  }
  entry->logits_missing -= static_cast<int>(count);
  const int position = logits.position;
  wanted.pieces.emplace(position, std::move(logits));
  return true;
}

void StepTracker::OnHeartbeat(int rank, const Heartbeat& heartbeat) {
  finished_[rank] = heartbeat.last_step;
  held_[rank] = StepId{heartbeat.last_step.value + std::max(0, heartbeat.steps_queued)};
}

std::optional<CompleteStep> StepTracker::PopComplete() {
  if (steps_.empty() || steps_.front().missing > 0 || steps_.front().logits_missing > 0) {
    return std::nullopt;
  }
  InFlight& entry = steps_.front();
  CompleteStep complete;
  complete.step = entry.planned.step;
  for (const auto& tokens : entry.tokens) {
    complete.tokens.insert(complete.tokens.end(), tokens.begin(), tokens.end());
  }
  for (auto& [request, wanted] : entry.logits) {
    for (auto& [position, piece] : wanted.pieces) complete.logits.push_back(std::move(piece));
  }
  steps_.pop_front();
  return complete;
}

std::vector<StepTracker::Due> StepTracker::DueSteps(absl::Time now) {
  std::vector<Due> due;
  for (InFlight& entry : steps_) {
    if (now < entry.resend_at) continue;
    entry.resend_after = std::min(2 * entry.resend_after, options_.resend_after_max);
    entry.resend_at = now + entry.resend_after;
    const StepId step = entry.planned.step;
    for (int rank = 0; rank < spec_.WorkerCount(); ++rank) {
      const bool reports = Reports(rank);
      const bool answered = entry.done[rank] && !(reports && entry.logits_missing > 0);
      const bool computing = held_[rank] >= step && finished_[rank] < step;
      if (answered || computing) continue;
      due.push_back({rank, &entry.planned.by_dp[spec_.PositionOf(rank).dp]});
    }
  }
  return due;
}

}  // namespace conclave
