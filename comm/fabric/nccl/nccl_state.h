// The life of an NCCL communicator as a pure state machine: which call may follow which, and what
// an error, a deadline or a cancel leads to. NcclCommunicator is its shell; it makes no call that
// the machine has not allowed. Values; any thread.
//
//   Uninitialized -> Initializing -> Ready <-> Operating
//   Ready -> Finalizing -> Closed          the orderly end
//   (all of these) -> Faulted              by an error, a deadline or a cancel
//   Faulted -> Aborting -> Closed          or Stuck, when ncclCommAbort does not return
//   Ready, Faulted -> Shrinking -> Faulted the parent is then aborted; a child lives on
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace conclave {

enum class NcclState {
  kUninitialized,  // no handle
  kInitializing,   // init called, not complete
  kReady,          // idle
  kOperating,      // work enqueued, not known to be done
  kFinalizing,     // finalize or destroy runs
  kFaulted,        // unusable; kernels may still run and hold buffers
  kShrinking,      // a child of the survivors is made
  kAborting,       // abort runs
  kClosed,         // no handle any more; nothing holds a buffer
  kStuck,          // abort never returned: buffers are lost, the process must be replaced
};
inline constexpr int kNcclStateCount = 10;

enum class NcclEvent {
  kInit,       // ncclCommInitRankConfig is called
  kOperate,    // a group of operations is launched
  kFinalize,   // ncclCommFinalize is called
  kShrink,     // ncclCommShrink is called
  kAbort,      // ncclCommAbort is called
  kComplete,   // what runs has completed
  kFault,      // an error, a deadline or a cancel ended what runs
  kAbortHung,  // ncclCommAbort has not returned in its time
};
inline constexpr int kNcclEventCount = 8;

// "Ready", "Finalize".
const char* NcclStateName(NcclState state);
const char* NcclEventName(NcclEvent event);

// The state after `event`. FailedPrecondition, naming both, where the event may not happen.
absl::StatusOr<NcclState> NextNcclState(NcclState state, NcclEvent event);

// True when NCCL holds a communicator that must be finalized or aborted.
bool NcclStateHasHandle(NcclState state);

}  // namespace conclave
