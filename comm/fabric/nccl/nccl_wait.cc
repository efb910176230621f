#include "comm/fabric/nccl/nccl_wait.h"

#include <algorithm>
#include <memory>
#include <thread>
#include <utility>

#include "absl/synchronization/notification.h"

namespace conclave {
namespace {

constexpr absl::Duration kPauseMin = absl::Microseconds(20);
constexpr absl::Duration kPauseMax = absl::Milliseconds(1);

}  // namespace

void NcclCancel::Cancel(absl::Status reason) {
  if (reason.ok()) reason = absl::CancelledError("no reason given");
  absl::MutexLock lock(&mutex_);
  if (reason_.ok()) reason_ = std::move(reason);
}

absl::Status NcclCancel::reason() const {
  absl::MutexLock lock(&mutex_);
  return reason_;
}

void NcclCancel::WaitFor(absl::Duration limit) const {
  absl::MutexLock lock(&mutex_);
  mutex_.AwaitWithTimeout(absl::Condition(
                              +[](const absl::Status* reason) { return !reason->ok(); }, &reason_),
                          limit);
}

NcclWaitResult NcclPoll(const NcclWaitLimits& limits,
                        absl::FunctionRef<absl::StatusOr<bool>()> poll) {
  const SteadyTime spin_end =
      std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(limits.spin);
  absl::Duration pause = kPauseMin;
  while (true) {
    const absl::StatusOr<bool> done = poll();
    if (!done.ok()) return {NcclWaitEnd::kFailed, done.status()};
    if (*done) return {};
    if (absl::Status reason = limits.cancel->reason(); !reason.ok()) {
      return {NcclWaitEnd::kCancelled, std::move(reason)};
    }
    const SteadyTime now = std::chrono::steady_clock::now();
    if (now >= limits.deadline) return {NcclWaitEnd::kDeadline, absl::OkStatus()};
    if (now < spin_end) continue;
    limits.cancel->WaitFor(std::min(pause, absl::FromChrono(limits.deadline - now)));
    pause = std::min(2 * pause, kPauseMax);
  }
}

bool CallWithin(absl::Duration limit, std::function<void()> call) {
  auto done = std::make_shared<absl::Notification>();
  std::thread thread([done, call = std::move(call)]() mutable {
    call();
    call = nullptr;  // what it captured goes before the waiter is told
    done->Notify();
  });
  if (done->WaitForNotificationWithTimeout(limit)) {
    thread.join();
    return true;
  }
  thread.detach();  // tidy: allow(detach) a library call that never returns cannot be joined
  return false;
}

}  // namespace conclave
