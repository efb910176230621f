#include "coordinator/scheduler/batcher.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {

Batcher::Batcher(BatcherOptions options) : options_(options) {
  CHECK_GT(options_.batch_tokens_max, 0);
  CHECK_GT(options_.sequences_max, 0);
  CHECK_GT(options_.page_tokens, 0);
}

int Batcher::Sequence::remaining() const {
  const int size = static_cast<int>(tokens.size());
  // The last token wanted is sampled or will be: it is not computed.
  if (computed >= size && generated() >= request.tokens_max) return 0;
  return known_or_pending() - computed;
}

int Batcher::PagesAtMost(int prompt_size, int tokens_max) const {
  return PagesFor(prompt_size + std::max(0, tokens_max - 1));
}

absl::Status Batcher::CheckFits(int prompt_size, int tokens_max) const {
  int most = 0;
  for (int group = 0; group < pages_.groups(); ++group) {
    most = std::max(most, pages_.capacity(group));
  }
  const int need = PagesAtMost(prompt_size, tokens_max);
  if (pages_.groups() == 0 || need <= most) return absl::OkStatus();
  return absl::ResourceExhaustedError(absl::StrFormat(
      "a prompt of %d tokens and %d to generate need %d KV pages of %d tokens, the workers have "
      "%d; shorten it or give the workers more memory",
      prompt_size, tokens_max, need, options_.page_tokens, most));
}

std::vector<RequestId> Batcher::BeginEpoch(Epoch epoch, const std::vector<int>& pages_by_group) {
  CHECK(in_flight_.empty());
  epoch_ = epoch;
  next_step_ = StepId{1};
  pages_ = KvPages(pages_by_group);
  running_.assign(pages_by_group.size(), {});
  releasing_.assign(pages_by_group.size(), 0);
  std::vector<RequestId> dropped;
  for (RequestId id : waiting_) {
    const Sequence& sequence = sequences_.at(id);
    if (!CheckFits(sequence.prompt_size, sequence.request.tokens_max).ok()) dropped.push_back(id);
  }
  for (RequestId id : dropped) Cancel(id);
  return dropped;
}

std::vector<RequestId> Batcher::EndEpoch() {
  std::vector<RequestId> dropped;
  for (auto it = sequences_.begin(); it != sequences_.end();) {
    const Sequence& sequence = it->second;
    if (!sequence.started) {
      ++it;
      continue;
    }
    if (sequence.state != State::kEnded) dropped.push_back(it->first);
    waiting_.erase(it->first);
    it = sequences_.erase(it);
  }
  in_flight_.clear();
  running_.clear();
  releasing_.clear();
  pages_ = KvPages();
  return dropped;
}

absl::Status Batcher::Add(RequestId id, const GenerationRequest& request) {
  CHECK(sequences_.count(id) == 0) << id << " exists";
  const int64_t size = request.prompt.size();
  const int64_t total = size + std::max(0, request.tokens_max);
  if (total > options_.context_tokens) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the prompt of %d tokens and max_tokens %d are %d together, the model's context is %d; "
        "shorten the prompt or lower max_tokens",
        size, request.tokens_max, total, options_.context_tokens));
  }
  RETURN_IF_ERROR(CheckFits(static_cast<int>(size), request.tokens_max));
  if (waiting() >= options_.waiting_max) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d requests are waiting already; try again later", options_.waiting_max));
  }
  Sequence sequence;
  sequence.id = id;
  sequence.request = request;
  sequence.tokens = std::move(sequence.request.prompt);
  sequence.prompt_size = static_cast<int>(size);
  sequences_.emplace(id, std::move(sequence));
  waiting_.insert(id);
  return absl::OkStatus();
}

bool Batcher::Cancel(RequestId id) {
  const auto it = sequences_.find(id);
  if (it == sequences_.end() || it->second.state == State::kEnded) return false;
  End(it->second);
  return true;
}

void Batcher::End(Sequence& sequence) {
  if (sequence.state == State::kWaiting) waiting_.erase(sequence.id);
  if (sequence.state == State::kRunning) {
    running_[sequence.group].erase(sequence.id);
    ++releasing_[sequence.group];
  }
  sequence.state = State::kEnded;
  Settle(sequence.id);
}

void Batcher::Preempt(Sequence& sequence) {
  CHECK(sequence.state == State::kRunning);
  running_[sequence.group].erase(sequence.id);
  ++releasing_[sequence.group];
  sequence.state = State::kPreempted;
  Settle(sequence.id);
}

// Once nothing of it is in flight, a sequence that left its group gives its pages back, then waits
// again or goes.
void Batcher::Settle(RequestId id) {
  const auto it = sequences_.find(id);
  Sequence& sequence = it->second;
  if (sequence.in_flight > 0) return;
  if (sequence.state != State::kPreempted && sequence.state != State::kEnded) return;
  if (sequence.group >= 0) {
    pages_.Release(sequence.group, id, &sequence.pages);
    --releasing_[sequence.group];
    sequence.group = -1;
  }
  if (sequence.state == State::kEnded) {
    sequences_.erase(it);
    return;
  }
  CHECK_EQ(sequence.pending, 0);
  sequence.computed = 0;
  sequence.state = State::kWaiting;
  waiting_.insert(id);
}

int Batcher::running() const {
  int count = 0;
  for (const auto& group : running_) count += static_cast<int>(group.size());
  return count;
}

std::optional<PlannedStep> Batcher::NextPlan() {
  if (in_flight() >= kStepsInFlightMax || running_.empty()) return std::nullopt;
  InFlight record;
  record.step = next_step_;
  std::vector<GroupPlan> plans(running_.size());
  for (size_t group = 0; group < plans.size(); ++group) {
    plans[group].budget = options_.batch_tokens_max;
    PlanDecodes(static_cast<int>(group), &plans[group], &record);
  }
  for (size_t group = 0; group < plans.size(); ++group) {
    PlanPrefills(static_cast<int>(group), &plans[group], &record);
  }
  Admit(&plans, &record);
  if (record.shares.empty()) return std::nullopt;

  PlannedStep step;
  step.step = next_step_;
  next_step_ = next_step_.Next();
  std::vector<int32_t> tokens_by_dp;
  for (const GroupPlan& plan : plans) {
    tokens_by_dp.push_back(options_.batch_tokens_max - plan.budget);
  }
  for (GroupPlan& plan : plans) {
    plan.plan.epoch = epoch_;
    plan.plan.step = step.step;
    plan.plan.tokens_by_dp = tokens_by_dp;
    step.by_dp.push_back(std::move(plan.plan));
  }
  in_flight_.push_back(std::move(record));
  return step;
}

// Sequences with one position left, by arrival. Only they may lack a page: a prompt gets all of its
// own when admitted.
void Batcher::PlanDecodes(int group, GroupPlan* plan, InFlight* record) {
  const std::vector<RequestId> ids(running_[group].begin(), running_[group].end());
  for (RequestId id : ids) {
    if (plan->budget == 0) return;
    Sequence& sequence = sequences_.at(id);
    if (sequence.state != State::kRunning || sequence.remaining() != 1) continue;
    if (!MakeRoom(sequence)) continue;
    AddSlice(sequence, plan, record);
  }
}

void Batcher::PlanPrefills(int group, GroupPlan* plan, InFlight* record) {
  for (RequestId id : running_[group]) {
    if (plan->budget == 0) return;
    Sequence& sequence = sequences_.at(id);
    if (sequence.remaining() > 1) AddSlice(sequence, plan, record);
  }
}

// Gives the sequence the page of its next position, taking those of later arrivals when none is
// free. False when it must wait: for pages about to come free, or because it arrived last itself.
bool Batcher::MakeRoom(Sequence& sequence) {
  const int need = PagesFor(sequence.computed + 1) - static_cast<int>(sequence.pages.size());
  if (need <= 0) return true;
  std::set<RequestId>& group = running_[sequence.group];
  while (!pages_.Allocate(sequence.group, sequence.id, need, &sequence.pages)) {
    if (releasing_[sequence.group] > 0) return false;
    const RequestId last = *group.rbegin();
    Preempt(sequences_.at(last));
    if (last == sequence.id) return false;
  }
  return true;
}

int64_t Batcher::TokensOf(int group) const {
  int64_t tokens = 0;
  for (RequestId id : running_[group]) tokens += sequences_.at(id).known_or_pending();
  return tokens;
}

// The group with most free pages, then fewest tokens, then the first; -1: none can take it now. A
// page for each running sequence is left free, so that an admission does not preempt at once.
int Batcher::ChooseGroup(const Sequence& sequence, const std::vector<GroupPlan>& plans) const {
  const int need = PagesFor(static_cast<int>(sequence.tokens.size()));
  const int most = PagesAtMost(sequence.prompt_size, sequence.request.tokens_max);
  int best = -1;
  for (int group = 0; group < pages_.groups(); ++group) {
    const int running = static_cast<int>(running_[group].size());
    if (plans[group].budget == 0 || running >= options_.sequences_max) continue;
    if (pages_.capacity(group) < most || pages_.free(group) < need + running) continue;
    if (best < 0 || pages_.free(group) > pages_.free(best) ||
        (pages_.free(group) == pages_.free(best) && TokensOf(group) < TokensOf(best))) {
      best = group;
    }
  }
  return best;
}

// Strictly by arrival: a long prompt is not overtaken for ever by short ones.
void Batcher::Admit(std::vector<GroupPlan>* plans, InFlight* record) {
  while (!waiting_.empty()) {
    Sequence& sequence = sequences_.at(*waiting_.begin());
    const int group = ChooseGroup(sequence, *plans);
    if (group < 0) return;
    waiting_.erase(sequence.id);
    running_[group].insert(sequence.id);
    sequence.state = State::kRunning;
    sequence.started = true;
    sequence.group = group;
    const int need = PagesFor(static_cast<int>(sequence.tokens.size()));
    CHECK(pages_.Allocate(group, sequence.id, need, &sequence.pages));
    AddSlice(sequence, &(*plans)[group], record);
  }
}

// Where the next slice ends: at the budget, or where the reporting of logits begins or ends.
int Batcher::SliceEnd(const Sequence& sequence, int budget) const {
  int end = sequence.computed + std::min(sequence.remaining(), budget);
  if (!sequence.request.want_logits) return end;
  for (int border : {sequence.logits_until, sequence.prompt_size}) {
    if (sequence.computed < border) end = std::min(end, border);
  }
  return end;
}

void Batcher::AddSlice(Sequence& sequence, GroupPlan* plan, InFlight* record) {
  const int begin = sequence.computed;
  const int end = SliceEnd(sequence, plan->budget);
  CHECK_LT(begin, end);
  CHECK_LE(PagesFor(end), static_cast<int>(sequence.pages.size()));
  SequenceSlice slice;
  slice.request = sequence.id;
  slice.position = begin;
  const int known = static_cast<int>(sequence.tokens.size());
  if (begin < known) {
    CHECK_LE(end, known);
    slice.tokens.assign(sequence.tokens.begin() + begin, sequence.tokens.begin() + end);
  } else {
    // The token is sampled by the step in flight, which is the previous one: two steps are in
    // flight at most.
    CHECK_EQ(sequence.pending, 1);
    slice.from_previous_step = true;
    slice.tokens = {0};
  }
  slice.pages.assign(sequence.pages.begin(), sequence.pages.begin() + PagesFor(end));
  slice.sample =
      end == sequence.known_or_pending() && sequence.generated() < sequence.request.tokens_max;
  slice.want_logits = sequence.request.want_logits && begin >= sequence.logits_until &&
                      begin < sequence.prompt_size;
  slice.sampling = sequence.request.sampling;
  plan->budget -= end - begin;
  record->shares.push_back({sequence.id, end, slice.sample, slice.want_logits});
  sequence.computed = end;
  ++sequence.in_flight;
  if (slice.sample) ++sequence.pending;
  // Known now, not when the step is complete: the next plan must not ask for the same logits again.
  if (slice.want_logits) sequence.logits_until = end;
  plan->plan.batch.push_back(std::move(slice));
}

absl::Status Batcher::Complete(StepId step, const std::vector<SampledToken>& tokens,
                               StepOutcome* outcome) {
  CHECK(!in_flight_.empty());
  CHECK_EQ(in_flight_.front().step, step) << "steps are completed in order";
  std::map<RequestId, const SampledToken*> by_request;
  for (const SampledToken& token : tokens) by_request[token.request] = &token;
  const std::vector<Share>& shares = in_flight_.front().shares;
  size_t samples = 0;
  for (const Share& share : shares) {
    if (!share.sample) continue;
    ++samples;
    const auto it = by_request.find(share.request);
    if (it == by_request.end() || it->second->position != share.end) {
      return absl::InvalidArgumentError(absl::StrFormat("%s: no token came for %s at position %d",
                                                        step.ToString(), share.request.ToString(),
                                                        share.end));
    }
  }
  if (samples != tokens.size()) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: %d tokens came, %d were to be sampled",
                                                      step.ToString(), tokens.size(), samples));
  }
  const InFlight record = std::move(in_flight_.front());
  in_flight_.pop_front();
  for (const Share& share : record.shares) {
    TakeShare(share, share.sample ? by_request.at(share.request) : nullptr, outcome);
  }
  return absl::OkStatus();
}

void Batcher::TakeShare(const Share& share, const SampledToken* sampled, StepOutcome* outcome) {
  Sequence& sequence = sequences_.at(share.request);
  CHECK_GT(sequence.in_flight, 0);
  --sequence.in_flight;
  if (sampled != nullptr) --sequence.pending;
  if (sequence.state == State::kEnded) {  // it ended while this step was in flight
    Settle(share.request);
    return;
  }
  std::optional<FinishReason> reason;
  if (sampled != nullptr) {
    sequence.tokens.push_back(sampled->token);
    outcome->tokens.push_back(*sampled);
    const std::vector<int32_t>& stops = sequence.request.stop_token_ids;
    const int generated = static_cast<int>(sequence.tokens.size()) - sequence.prompt_size;
    if (std::find(stops.begin(), stops.end(), sampled->token) != stops.end()) {
      reason = FinishReason::kStop;
    } else if (generated >= sequence.request.tokens_max) {
      reason = FinishReason::kLength;
    }
  } else if (sequence.request.tokens_max == 0 && share.end == sequence.prompt_size) {
    reason = FinishReason::kLength;
  }
  if (!reason.has_value()) {
    Settle(share.request);
    return;
  }
  outcome->ended.push_back({share.request, *reason});
  End(sequence);
}

}  // namespace conclave
