#include "worker/engine/queue_engine.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <deque>
#include <optional>
#include <thread>
#include <utility>
#include <variant>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "worker/engine/assignment.h"
#include "worker/engine/step_check.h"

namespace conclave {
namespace {

struct PrepareCommand {
  Assign assign;
};
struct ConnectCommand {
  Commit commit;
};
struct StepCommand {
  StepPlan plan;
};
struct TearDownCommand {};
// A step that found the queue full.
struct OverflowCommand {
  StepPlan plan;
};

struct Command {
  Epoch epoch;
  std::variant<PrepareCommand, ConnectCommand, StepCommand, TearDownCommand, OverflowCommand> what;
};

// Steps wait at most kStepsQueuedMax; of the others a few per epoch come, and a newer epoch removes
// an older one's.
constexpr size_t kCommandsMax = 64;
// Steps given to the backend whose results are still to come: one runs, one stands behind it.
constexpr size_t kStepsInFlightMax = 2;

absl::Status QueueFullError(const StepPlan& plan) {
  return absl::ResourceExhaustedError(absl::StrCat(plan.step.ToString(), " of ",
                                                   plan.epoch.ToString(), ": ", kStepsQueuedMax,
                                                   " steps are queued already; send fewer ahead"));
}

class QueueEngine : public Engine {
 public:
  QueueEngine(QueueEngineOptions options, EngineListener& listener)
      : options_(std::move(options)), listener_(listener), thread_([this] { Run(); }) {}
  ~QueueEngine() override;

  void Prepare(Epoch epoch, const Assign& assign) override;
  void Connect(Epoch epoch, const Commit& commit) override;
  void RunStep(const StepPlan& plan) override;
  void Abort(Epoch epoch, const std::string& reason) override;
  uint64_t progress() const override { return progress_; }

 private:
  enum class Phase { kIdle, kPrepared, kReady, kFailed };

  // Any thread.
  void PushLocked(Command command) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void CancelLocked(Epoch epoch, const std::string& reason) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool WakeLocked() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopped_ || !queue_.empty();
  }
  Command PopLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsAborted(Epoch epoch) const {
    absl::MutexLock lock(&mutex_);
    return epoch <= aborted_;
  }

  // The engine's thread.
  void Run();
  std::optional<Command> Next();
  void Do(Epoch epoch, const PrepareCommand& command);
  void Do(Epoch epoch, const ConnectCommand& command);
  void Do(Epoch epoch, const StepCommand& command);
  void Do(Epoch epoch, const TearDownCommand& command);
  void Do(Epoch epoch, const OverflowCommand& command);
  void TearDown();
  absl::StatusOr<Prepared> Load(const Assign& assign);
  absl::Status ConnectFabric(Epoch epoch, const Commit& commit);
  absl::Status Submit(const StepPlan& plan);
  std::optional<Command> NextWhileStepsRun();
  void CollectOldest();
  void Fail(StepId step, absl::Status status);

  const QueueEngineOptions options_;
  EngineListener& listener_;
  std::atomic<uint64_t> progress_{0};
  std::atomic<bool> cancelled_{false};  // of the load that runs

  mutable absl::Mutex mutex_;
  std::deque<Command> queue_ ABSL_GUARDED_BY(mutex_);
  int steps_queued_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopped_ ABSL_GUARDED_BY(mutex_) = false;
  Epoch aborted_ ABSL_GUARDED_BY(mutex_);  // this epoch and the older ones are over
  Epoch running_ ABSL_GUARDED_BY(mutex_);  // of the command that runs
  // Set and reset on the engine's thread with the lock held; Cancel of others holds it too.
  std::unique_ptr<Fabric> fabric_ ABSL_GUARDED_BY(mutex_);
  Epoch fabric_epoch_ ABSL_GUARDED_BY(mutex_);

  // The engine's thread only.
  Phase phase_ = Phase::kIdle;
  Epoch epoch_;
  StepId last_step_;
  Assign assign_;
  std::deque<StepId> in_flight_;  // submitted to the backend, at most kStepsInFlightMax
  std::unique_ptr<FabricEndpoint> endpoint_;
  std::unique_ptr<EngineBackend> backend_;

  // Last: it starts when all else is there. The seam exists to give compute a thread of its own.
  std::thread thread_;  // tidy: allow(thread-home) model code blocks, an actor may not
};

QueueEngine::~QueueEngine() {
  {
    absl::MutexLock lock(&mutex_);
    stopped_ = true;
    CancelLocked(Epoch{~0ULL}, "the engine stops");
  }
  thread_.join();
}

void QueueEngine::PushLocked(Command command) {
  if (command.epoch <= aborted_) return;
  // The control side sends a handful of commands per epoch; more is a bug of ours.
  CHECK_LT(queue_.size(), kCommandsMax) << "engine command queue";
  queue_.push_back(std::move(command));
}

void QueueEngine::CancelLocked(Epoch epoch, const std::string& reason) {
  if (epoch <= aborted_) return;
  aborted_ = epoch;
  const auto over = [epoch](const Command& command) { return command.epoch <= epoch; };
  queue_.erase(std::remove_if(queue_.begin(), queue_.end(), over), queue_.end());
  steps_queued_ =
      static_cast<int>(std::count_if(queue_.begin(), queue_.end(), [](const Command& c) {
        return std::holds_alternative<StepCommand>(c.what);
      }));
  if (running_ <= epoch) cancelled_ = true;
  if (fabric_ != nullptr && fabric_epoch_ <= epoch) {
    fabric_->Cancel(
        absl::CancelledError(absl::StrCat(fabric_epoch_.ToString(), " aborted: ", reason)));
  }
}

void QueueEngine::Prepare(Epoch epoch, const Assign& assign) {
  absl::MutexLock lock(&mutex_);
  if (epoch.value > 0) CancelLocked(Epoch{epoch.value - 1}, "a newer assignment came");
  PushLocked({epoch, PrepareCommand{assign}});
}

void QueueEngine::Connect(Epoch epoch, const Commit& commit) {
  absl::MutexLock lock(&mutex_);
  PushLocked({epoch, ConnectCommand{commit}});
}

void QueueEngine::RunStep(const StepPlan& plan) {
  absl::MutexLock lock(&mutex_);
  if (plan.epoch <= aborted_ || steps_queued_ > kStepsQueuedMax) return;
  // The step that runs is not counted: it has left the queue.
  if (++steps_queued_ <= kStepsQueuedMax) return PushLocked({plan.epoch, StepCommand{plan}});
  PushLocked({plan.epoch, OverflowCommand{plan}});
  // The epoch has failed: a step that waits for peers says so now, otherwise the command does in
  // its turn.
  if (fabric_ != nullptr && fabric_epoch_ == plan.epoch) fabric_->Cancel(QueueFullError(plan));
}

void QueueEngine::Abort(Epoch epoch, const std::string& reason) {
  absl::MutexLock lock(&mutex_);
  if (epoch <= aborted_) return;
  CancelLocked(epoch, reason);
  // Of the next epoch, so that it is not itself aborted.
  PushLocked({Epoch{epoch.value + 1}, TearDownCommand{}});
}

std::optional<Command> QueueEngine::Next() {
  if (std::optional<Command> command = NextWhileStepsRun()) return command;
  absl::MutexLock lock(&mutex_);
  running_ = Epoch{~0ULL};
  mutex_.Await(absl::Condition(this, &QueueEngine::WakeLocked));
  if (stopped_) return std::nullopt;
  return PopLocked();
}

Command QueueEngine::PopLocked() {
  Command command = std::move(queue_.front());
  queue_.pop_front();
  if (std::holds_alternative<StepCommand>(command.what)) --steps_queued_;
  running_ = command.epoch;
  cancelled_ = false;
  return command;
}

// While the device works on steps, the next one is submitted as soon as it comes, so that the
// device need not wait for the host; results go up as steps end. Empty when no step is left.
std::optional<Command> QueueEngine::NextWhileStepsRun() {
  while (!in_flight_.empty()) {
    bool waits = false;
    {
      absl::MutexLock lock(&mutex_);
      if (stopped_) break;
      waits = !queue_.empty() && std::holds_alternative<StepCommand>(queue_.front().what);
      if (waits && in_flight_.size() < kStepsInFlightMax) return PopLocked();
    }
    if (backend_->Done()) {
      CollectOldest();
    } else {
      std::this_thread::yield();
    }
  }
  return std::nullopt;
}

void QueueEngine::CollectOldest() {
  StepResult result;
  result.epoch = epoch_;
  result.step = in_flight_.front();
  in_flight_.pop_front();
  const absl::Status status = backend_->Collect(
      [&](Logits logits) { listener_.OnLogits(epoch_, std::move(logits)); }, result);
  if (!status.ok()) {
    return Fail(result.step, WithContext(status, absl::StrCat("rank ", assign_.rank)));
  }
  if (!IsAborted(epoch_)) listener_.OnStepDone(epoch_, std::move(result));
}

void QueueEngine::Run() {
  backend_ = options_.make_backend(progress_);
  while (std::optional<Command> command = Next()) {
    ++progress_;
    std::visit([&](const auto& what) { Do(command->epoch, what); }, command->what);
  }
  TearDown();
  backend_.reset();
}

void QueueEngine::TearDown() {
  in_flight_.clear();
  backend_->Disconnect();
  endpoint_.reset();
  std::unique_ptr<Fabric> old;
  {
    absl::MutexLock lock(&mutex_);
    old = std::move(fabric_);
  }
  phase_ = Phase::kIdle;
}

void QueueEngine::Fail(StepId step, absl::Status status) {
  phase_ = Phase::kFailed;
  in_flight_.clear();
  if (!IsAborted(epoch_)) listener_.OnFault(epoch_, step, std::move(status));
}

// ---- Prepare

void QueueEngine::Do(Epoch epoch, const PrepareCommand& command) {
  TearDown();
  epoch_ = epoch;
  last_step_ = StepId{};
  const auto start = std::chrono::steady_clock::now();
  absl::StatusOr<Prepared> prepared = Load(command.assign);
  if (!prepared.ok()) {
    Fail(StepId{}, WithContext(prepared.status(), absl::StrCat("prepare rank ", command.assign.rank,
                                                               " of ", epoch.ToString())));
    return;
  }
  prepared->load_us = std::chrono::duration_cast<std::chrono::microseconds>(
                          std::chrono::steady_clock::now() - start)
                          .count();
  phase_ = Phase::kPrepared;
  if (!IsAborted(epoch)) listener_.OnPrepared(epoch, *std::move(prepared));
}

absl::StatusOr<Prepared> QueueEngine::Load(const Assign& assign) {
  RETURN_IF_ERROR(CheckAssign(assign));
  assign_ = assign;
  ASSIGN_OR_RETURN(Prepared prepared, backend_->Load(assign_, cancelled_));
  ASSIGN_OR_RETURN(endpoint_, options_.make_endpoint(assign));
  prepared.fabric_address = endpoint_->Address();
  return prepared;
}

// ---- Connect

absl::Status QueueEngine::ConnectFabric(Epoch epoch, const Commit& commit) {
  const size_t ranks = assign_.plan.spec.WorkerCount();
  if (commit.fabric_addresses.size() != ranks || commit.nodes.size() != ranks) {
    return absl::InvalidArgumentError(absl::StrCat(
        "commit: ", commit.fabric_addresses.size(), " addresses and ", commit.nodes.size(),
        " nodes for a plan of ", ranks, " workers; give one of each for every rank"));
  }
  const FabricEndpoint::Peers peers = {commit.fabric_addresses, commit.nodes, assign_.rank,
                                       epoch.value};
  ASSIGN_OR_RETURN(std::unique_ptr<Fabric> fabric, endpoint_->Connect(peers));
  endpoint_.reset();
  Fabric* borrowed = fabric.get();
  {
    absl::MutexLock lock(&mutex_);
    fabric_ = std::move(fabric);
    fabric_epoch_ = epoch;
    if (epoch <= aborted_) return absl::CancelledError(epoch.ToString() + " was aborted");
  }
  return backend_->Connect(assign_, commit.nodes, *borrowed);
}

void QueueEngine::Do(Epoch epoch, const ConnectCommand& command) {
  if (epoch != epoch_ || phase_ != Phase::kPrepared) return;
  if (absl::Status status = ConnectFabric(epoch, command.commit); !status.ok()) {
    return Fail(StepId{}, WithContext(status, absl::StrCat("connect rank ", assign_.rank, " of ",
                                                           epoch.ToString())));
  }
  phase_ = Phase::kReady;
  if (!IsAborted(epoch)) listener_.OnConnected(epoch);
}

// ---- Step

absl::Status QueueEngine::Submit(const StepPlan& plan) {
  if (plan.step <= last_step_) {
    return absl::InvalidArgumentError(absl::StrCat(plan.step.ToString(), " of ",
                                                   plan.epoch.ToString(), " came after ",
                                                   last_step_.ToString(), "; steps must rise"));
  }
  RETURN_IF_ERROR(CheckStepPlan(plan, backend_->Limits()));
  last_step_ = plan.step;
  RETURN_IF_ERROR(backend_->Submit(plan));
  in_flight_.push_back(plan.step);
  return absl::OkStatus();
}

void QueueEngine::Do(Epoch epoch, const StepCommand& command) {
  if (epoch != epoch_ || phase_ != Phase::kReady) return;
  if (absl::Status status = Submit(command.plan); !status.ok()) {
    Fail(command.plan.step, WithContext(status, absl::StrCat("rank ", assign_.rank)));
  }
}

void QueueEngine::Do(Epoch epoch, const OverflowCommand& command) {
  if (epoch != epoch_ || phase_ == Phase::kFailed) return;
  Fail(command.plan.step, QueueFullError(command.plan));
}

void QueueEngine::Do(Epoch epoch, const TearDownCommand&) {
  if (epoch_ < epoch) TearDown();
}

}  // namespace

std::unique_ptr<Engine> CreateQueueEngine(QueueEngineOptions options, EngineListener& listener) {
  CHECK(options.make_backend != nullptr);
  CHECK(options.make_endpoint != nullptr);
  return std::make_unique<QueueEngine>(std::move(options), listener);
}

}  // namespace conclave
