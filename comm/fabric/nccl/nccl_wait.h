// How a fabric over NCCL waits: it polls, because NCCL has no descriptor to wait on, and ends by
// completion, error, cancel or deadline. NcclCancel is the switch that other threads throw; it
// wakes a poller at once. CallWithin bounds the calls into NCCL that may block.
#pragma once

#include <functional>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "comm/fabric/point_to_point.h"

namespace conclave {

// Thread-safe. The first reason stays.
class NcclCancel {
 public:
  void Cancel(absl::Status reason);
  absl::Status reason() const;  // Ok while nobody cancelled
  // Returns at a cancel or after `limit`.
  void WaitFor(absl::Duration limit) const;

 private:
  mutable absl::Mutex mutex_;
  absl::Status reason_ ABSL_GUARDED_BY(mutex_);
};

enum class NcclWaitEnd { kDone, kFailed, kDeadline, kCancelled };

struct NcclWaitResult {
  NcclWaitEnd end = NcclWaitEnd::kDone;
  absl::Status error;  // of kFailed: poll's; of kCancelled: the reason
};

struct NcclWaitLimits {
  SteadyTime deadline;
  absl::Duration spin;  // polls without a pause before it pauses between polls
  const NcclCancel* cancel = nullptr;
};

// Polls until it gives true or an error. At least one poll, also past the deadline; pauses grow
// from 20 us to 1 ms.
NcclWaitResult NcclPoll(const NcclWaitLimits& limits,
                        absl::FunctionRef<absl::StatusOr<bool>()> poll);

// Runs `call` on a thread of its own and waits for it; false when it has not returned within
// `limit`. It then goes on alone and owns what it captured: for calls into a library that may never
// return.
bool CallWithin(absl::Duration limit, std::function<void()> call);

}  // namespace conclave
