// SoloTransport: the transport of a world of one rank: there is nobody to exchange with, and
// nothing is initialised. One thread uses it; Cancel comes from any.
#pragma once

#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/fabric/fabric_error.h"
#include "comm/fabric/point_to_point.h"
#include "glog/logging.h"

namespace conclave {

class SoloTransport final : public PointToPoint {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }

  absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                        const WireOp& op) override {
    CHECK(sends.empty() && recvs.empty()) << op.op.name << ": a peer in a world of one rank";
    absl::MutexLock lock(&mutex_);
    if (cancelled_.ok()) return absl::OkStatus();
    return CancelledError(0, op.op, cancelled_);
  }

  void Cancel(absl::Status reason) override {
    absl::MutexLock lock(&mutex_);
    if (cancelled_.ok()) cancelled_ = std::move(reason);
  }

  FabricCounters counters() const override { return {}; }

 private:
  absl::Mutex mutex_;
  absl::Status cancelled_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace conclave
