#include "worker/engine/fake_engine.h"

#include <algorithm>
#include <deque>
#include <map>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"
#include "worker/engine/step_check.h"

namespace conclave {
namespace {

constexpr int32_t kUnwritten = -1;

// Finalizer of MurmurHash3 (public domain): spreads a 64-bit state over its bits.
uint64_t Mix(uint64_t h) {
  h ^= h >> 33;
  h *= 0xff51afd7ed558ccdULL;
  h ^= h >> 33;
  h *= 0xc4ceb9fe1a85ec53ULL;
  return h ^ (h >> 33);
}

}  // namespace

int32_t FakeNextToken(absl::Span<const int32_t> prefix, int vocab) {
  CHECK_GT(vocab, 0);
  uint64_t h = prefix.size();
  for (int32_t token : prefix) h = Mix(h ^ static_cast<uint32_t>(token)) + 0x9e3779b97f4a7c15ULL;
  return static_cast<int32_t>(Mix(h) % static_cast<uint64_t>(vocab));
}

class FakeEngine::State : public std::enable_shared_from_this<State> {
 public:
  State(FakeEngineOptions options, EngineListener& listener)
      : options_(std::move(options)), listener_(listener) {
    CHECK(options_.schedule != nullptr);
  }

  void Prepare(Epoch epoch, const Assign& assign);
  void Connect(Epoch epoch);
  void RunStep(const StepPlan& plan);
  void Abort(Epoch epoch);
  void FailNextStep(absl::Status status) { next_failure_ = std::move(status); }
  void Hang() { hung_ = true; }
  uint64_t progress() const { return progress_; }

 private:
  enum class Phase { kIdle, kPreparing, kPrepared, kConnecting, kReady, kFailed };

  // Runs `work` later unless the engine was destroyed, hung, or went on to another generation.
  void Later(absl::Duration delay, std::function<void()> work);
  void Fail(StepId step, absl::Status status);
  void StartNextStep();
  absl::Status Execute(const StepPlan& plan, StepResult* result);
  absl::Status ExecuteSlice(const StepPlan& plan, const SequenceSlice& slice, StepResult* result);
  void ReportLogits(const StepPlan& plan, const SequenceSlice& slice,
                    const std::vector<int32_t>& prefix);
  int32_t& Cell(const SequenceSlice& slice, int64_t position) {
    const int32_t page = slice.pages[position / assign_.cache.page_tokens];
    return cache_[static_cast<int64_t>(page) * assign_.cache.page_tokens +
                  position % assign_.cache.page_tokens];
  }
  bool Reports() const {
    const GridPosition at = assign_.plan.spec.PositionOf(assign_.rank);
    return at.pp == assign_.plan.spec.pp - 1 && at.tp == 0;
  }

  FakeEngineOptions options_;
  EngineListener& listener_;
  Phase phase_ = Phase::kIdle;
  bool hung_ = false;
  uint64_t generation_ = 0;
  uint64_t progress_ = 0;
  Epoch epoch_;
  Assign assign_;
  StepLimits limits_;
  std::vector<int32_t> cache_;  // [pages, page_tokens] token ids
  std::deque<StepPlan> queue_;
  bool running_ = false;
  StepId last_step_;
  std::map<RequestId, int32_t> sampled_;  // of the previous step
  std::map<RequestId, int32_t> sampled_now_;
  absl::Status next_failure_;
};

void FakeEngine::State::Later(absl::Duration delay, std::function<void()> work) {
  options_.schedule(delay,
                    [weak = weak_from_this(), generation = generation_, work = std::move(work)] {
                      const std::shared_ptr<State> self = weak.lock();
                      if (self == nullptr || self->hung_ || self->generation_ != generation) return;
                      ++self->progress_;
                      work();
                    });
}

void FakeEngine::State::Fail(StepId step, absl::Status status) {
  phase_ = Phase::kFailed;
  queue_.clear();
  ++generation_;
  Later(absl::ZeroDuration(), [this, epoch = epoch_, step, status = std::move(status)] {
    listener_.OnFault(epoch, step, status);
  });
}

void FakeEngine::State::Prepare(Epoch epoch, const Assign& assign) {
  if (epoch < epoch_) return;
  ++generation_;
  epoch_ = epoch;
  assign_ = assign;
  queue_.clear();
  running_ = false;
  last_step_ = StepId{};
  sampled_.clear();
  const CacheOptions& cache = assign.cache;
  const ParallelSpec& spec = assign.plan.spec;
  if (assign.rank < 0 || assign.rank >= spec.WorkerCount() || cache.page_tokens < 1) {
    Fail(StepId{}, absl::InvalidArgumentError(
                       absl::StrCat("rank ", assign.rank, " or page_tokens ", cache.page_tokens,
                                    " is not possible in a plan of ", spec.ToString())));
    return;
  }
  limits_.vocab = assign.shape.vocab;
  limits_.pages =
      cache.pages_max > 0 ? std::min(cache.pages_max, options_.kv_pages) : options_.kv_pages;
  limits_.page_tokens = cache.page_tokens;
  limits_.dp_groups = spec.dp;
  limits_.dp = spec.PositionOf(assign.rank).dp;
  cache_.assign(static_cast<int64_t>(limits_.pages) * cache.page_tokens, kUnwritten);
  phase_ = Phase::kPreparing;
  Later(options_.prepare_time, [this] {
    phase_ = Phase::kPrepared;
    Prepared prepared;
    prepared.fabric_address = absl::StrCat("fake-", assign_.rank);
    prepared.weight_bytes = prepared.checkpoint_bytes_read = prepared.checkpoint_bytes_share = 1;
    prepared.kv_pages = limits_.pages;
    listener_.OnPrepared(epoch_, std::move(prepared));
  });
}

void FakeEngine::State::Connect(Epoch epoch) {
  if (epoch != epoch_ || phase_ != Phase::kPrepared) return;
  phase_ = Phase::kConnecting;
  Later(options_.connect_time, [this] {
    phase_ = Phase::kReady;
    listener_.OnConnected(epoch_);
  });
}

void FakeEngine::State::RunStep(const StepPlan& plan) {
  if (plan.epoch != epoch_ || phase_ != Phase::kReady) return;
  if (queue_.size() >= kStepsQueuedMax) {
    Fail(plan.step, absl::ResourceExhaustedError(absl::StrCat(
                        plan.step.ToString(), ": ", kStepsQueuedMax, " steps are queued already")));
    return;
  }
  queue_.push_back(plan);
  if (!running_) StartNextStep();
}

void FakeEngine::State::StartNextStep() {
  running_ = !queue_.empty();
  if (!running_) return;
  Later(options_.step_time, [this] {
    const StepPlan plan = std::move(queue_.front());
    queue_.pop_front();
    StepResult result;
    result.epoch = plan.epoch;
    result.step = plan.step;
    absl::Status status = std::exchange(next_failure_, absl::OkStatus());
    if (status.ok()) status = Execute(plan, &result);
    if (!status.ok()) return Fail(plan.step, std::move(status));
    const uint64_t generation = generation_;
    listener_.OnStepDone(epoch_, std::move(result));
    if (generation == generation_) StartNextStep();
  });
}

absl::Status FakeEngine::State::Execute(const StepPlan& plan, StepResult* result) {
  if (absl::Status status = CheckStepPlan(plan, limits_); !status.ok()) return status;
  if (plan.step <= last_step_) {
    return absl::InvalidArgumentError(
        absl::StrCat(plan.step.ToString(), " came after ", last_step_.ToString()));
  }
  last_step_ = plan.step;
  sampled_now_.clear();
  for (const SequenceSlice& slice : plan.batch) {
    if (absl::Status status = ExecuteSlice(plan, slice, result); !status.ok()) return status;
  }
  sampled_.swap(sampled_now_);
  result->timings.total_us = absl::ToInt64Microseconds(options_.step_time);
  return absl::OkStatus();
}

absl::Status FakeEngine::State::ExecuteSlice(const StepPlan& plan, const SequenceSlice& slice,
                                             StepResult* result) {
  std::vector<int32_t> tokens = slice.tokens;
  if (slice.from_previous_step) {
    const auto it = sampled_.find(slice.request);
    if (it == sampled_.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(plan.step.ToString(), ": ", slice.request.ToString(),
                       ": from_previous_step, but the step before sampled no token for it"));
    }
    tokens[0] = it->second;
  }
  for (size_t i = 0; i < tokens.size(); ++i) Cell(slice, slice.position + i) = tokens[i];
  std::vector<int32_t> prefix(slice.position + tokens.size());
  for (size_t i = 0; i < prefix.size(); ++i) prefix[i] = Cell(slice, i);
  if (slice.want_logits && Reports()) ReportLogits(plan, slice, prefix);
  if (!slice.sample) return absl::OkStatus();
  const int32_t next = FakeNextToken(prefix, limits_.vocab);
  sampled_now_[slice.request] = next;
  if (Reports()) {
    result->tokens.push_back({slice.request, static_cast<int32_t>(prefix.size()), next, 0.0f});
  }
  return absl::OkStatus();
}

void FakeEngine::State::ReportLogits(const StepPlan& plan, const SequenceSlice& slice,
                                     const std::vector<int32_t>& prefix) {
  Logits logits;
  logits.step = plan.step;
  logits.request = slice.request;
  logits.position = slice.position;
  logits.vocab = limits_.vocab;
  logits.values.assign(slice.tokens.size() * limits_.vocab, 0.0f);
  for (size_t i = 0; i < slice.tokens.size(); ++i) {
    const auto until = absl::MakeConstSpan(prefix).first(slice.position + i + 1);
    logits.values[i * limits_.vocab + FakeNextToken(until, limits_.vocab)] = 1.0f;
  }
  listener_.OnLogits(plan.epoch, std::move(logits));
}

void FakeEngine::State::Abort(Epoch epoch) {
  if (epoch < epoch_) return;
  ++generation_;
  queue_.clear();
  running_ = false;
  phase_ = Phase::kIdle;
}

FakeEngine::FakeEngine(FakeEngineOptions options, EngineListener& listener)
    : state_(std::make_shared<State>(std::move(options), listener)) {}
FakeEngine::~FakeEngine() = default;

void FakeEngine::Prepare(Epoch epoch, const Assign& assign) { state_->Prepare(epoch, assign); }
void FakeEngine::Connect(Epoch epoch, const Commit&) { state_->Connect(epoch); }
void FakeEngine::RunStep(const StepPlan& plan) { state_->RunStep(plan); }
void FakeEngine::Abort(Epoch epoch, const std::string&) { state_->Abort(epoch); }
uint64_t FakeEngine::progress() const { return state_->progress(); }
void FakeEngine::FailNextStep(absl::Status status) { state_->FailNextStep(std::move(status)); }
void FakeEngine::Hang() { state_->Hang(); }

}  // namespace conclave
