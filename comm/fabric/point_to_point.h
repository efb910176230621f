// PointToPoint: what a transport gives a fabric: sets of messages between ranks, with a deadline.
// P2pFabric builds every collective on it, so that these are written once. One thread at a time
// uses a transport; Cancel comes from any. After an error the transport is dead: it fails every
// later call and never touches buffers again.
#pragma once

#include <chrono>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "comm/fabric/fabric.h"

namespace conclave {

using SteadyTime = std::chrono::steady_clock::time_point;

// An operation on the wire: several may serve one collective, under one deadline.
struct WireOp {
  FabricOp op;
  SteadyTime deadline;
};

class PointToPoint {
 public:
  virtual ~PointToPoint() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;

  // Fabric::Exchange with peers other than the rank itself.
  virtual absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                                const WireOp& op) = 0;

  virtual void Cancel(absl::Status reason) = 0;

  virtual FabricCounters counters() const = 0;
};

}  // namespace conclave
