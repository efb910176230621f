// NcclCommunicator: one NCCL communicator of one rank, over its whole life: nonblocking init,
// groups of operations, shrink to the survivors, orderly finalize, abort. Every wait has a deadline
// and can be cancelled; NcclState says which call may come next. One thread uses it, with the
// device current; NcclCancel is for the others.
//
// After an error the communicator has been aborted when the call returns, so that no kernel holds a
// buffer of the caller; unless `shrink_on_fault` keeps it for Shrink. Errors name rank, operation,
// layer and peers, and carry NCCL's own last error text.
#pragma once

#include <functional>
#include <memory>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric_error.h"
#include "comm/fabric/nccl/nccl_api.h"
#include "comm/fabric/nccl/nccl_device.h"
#include "comm/fabric/nccl/nccl_state.h"
#include "comm/fabric/nccl/nccl_wait.h"
#include "comm/fabric/point_to_point.h"

namespace conclave {

struct NcclCommunicatorOptions {
  std::shared_ptr<const NcclApi> api;
  NcclDevice* device = nullptr;        // outlives the communicator
  const NcclCancel* cancel = nullptr;  // outlives the communicator
  std::vector<int> ranks;              // the fabric's rank of each member, for errors
  int index = 0;                       // the caller's, in `ranks`
  absl::Duration spin = absl::Microseconds(50);
  absl::Duration abort_timeout = absl::Seconds(5);
  bool shrink_on_fault = false;
  int rank() const { return ranks[index]; }
};

// One group of operations.
struct NcclWork {
  // Makes the NCCL calls of the group; returns the first result that is no success.
  std::function<NcclResult(NcclComm comm)> enqueue;
  // Puts what follows them into the stream (copies back, sums); may be empty.
  std::function<absl::Status()> then;
  // Who is waited for; called after a fault, when the communicator has been aborted.
  std::function<AwaitedPeers()> awaited;
};

class NcclCommunicator {
 public:
  // Joins the communicator named `id`; all members must call it. DeadlineExceeded when some did not
  // come; Unavailable or Internal with NCCL's text when it fails.
  static absl::StatusOr<std::unique_ptr<NcclCommunicator>> Init(NcclCommunicatorOptions options,
                                                                const NcclUniqueId& id,
                                                                const WireOp& op);
  // Aborts what Finalize has not ended.
  ~NcclCommunicator();
  NcclCommunicator(const NcclCommunicator&) = delete;
  NcclCommunicator& operator=(const NcclCommunicator&) = delete;

  NcclState state() const { return state_; }
  const NcclCommunicatorOptions& options() const { return options_; }

  // Runs a group on the device's stream and waits until it and what follows it are done.
  absl::Status Run(const NcclWork& work, const WireOp& op);

  // A communicator of the members that are not `lost` (indexes, ascending), in their order; all of
  // them must call it. Stops what runs on this one, which is closed afterwards in any case.
  absl::StatusOr<std::unique_ptr<NcclCommunicator>> Shrink(std::vector<int> lost, const WireOp& op);

  // Ends it in order: all members must call it. Aborts when that takes longer than the deadline.
  absl::Status Finalize(const WireOp& op);

  // Ends it now, waiting for nobody. Ok when nothing holds a buffer afterwards; Internal when
  // ncclCommAbort did not return within the options' abort_timeout.
  absl::Status Abort();

 private:
  // Where NCCL's threads may still write the handle after a call has returned.
  using Slot = std::shared_ptr<NcclComm>;

  explicit NcclCommunicator(NcclCommunicatorOptions options);

  absl::Status Apply(NcclEvent event);
  // NCCL's answer as a status: Ok for success and "in progress".
  absl::Status Check(NcclResult result, const char* attempt) const;
  // One look at the communicator: true when NCCL has launched or ended what it was asked for.
  absl::StatusOr<bool> Settled(const char* attempt) const;
  NcclWaitResult AwaitSettled(const char* attempt, const WireOp& op) const;
  // The group up to the end of what follows it; the state is Operating before and after.
  NcclWaitResult RunGroup(const NcclWork& work, const WireOp& op);
  // Ok, or the error of what ended so, after an abort.
  absl::Status Conclude(const NcclWaitResult& result, const WireOp& op,
                        absl::FunctionRef<AwaitedPeers()> awaited);
  absl::Status EndedBy(const NcclWaitResult& result, const WireOp& op, AwaitedPeers awaited) const;
  NcclWaitLimits Limits(const WireOp& op) const;
  AwaitedPeers AllOthers() const;
  // Marks the communicator as one that NCCL does not give back.
  absl::Status Stuck(const char* call);

  const NcclCommunicatorOptions options_;
  const Slot comm_;
  NcclState state_ = NcclState::kUninitialized;
};

}  // namespace conclave
