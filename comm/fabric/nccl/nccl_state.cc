#include "comm/fabric/nccl/nccl_state.h"

#include <optional>

#include "absl/strings/str_cat.h"
#include "glog/logging.h"

namespace conclave {
namespace {

std::optional<NcclState> Next(NcclState state, NcclEvent event) {
  using S = NcclState;
  using E = NcclEvent;
  switch (state) {
    case S::kUninitialized:
      if (event == E::kInit) return S::kInitializing;
      // A fault before init: there is no handle to abort.
      if (event == E::kFault) return S::kClosed;
      break;
    case S::kInitializing:
    case S::kOperating:
      if (event == E::kComplete) return S::kReady;
      if (event == E::kFault) return S::kFaulted;
      break;
    case S::kReady:
      if (event == E::kOperate) return S::kOperating;
      if (event == E::kFinalize) return S::kFinalizing;
      if (event == E::kShrink) return S::kShrinking;
      if (event == E::kFault) return S::kFaulted;
      if (event == E::kAbort) return S::kAborting;
      break;
    case S::kFinalizing:
      if (event == E::kComplete) return S::kClosed;
      if (event == E::kFault) return S::kFaulted;
      break;
    case S::kFaulted:
      if (event == E::kShrink) return S::kShrinking;
      if (event == E::kAbort) return S::kAborting;
      // The second of two faults, such as a cancel after a deadline.
      if (event == E::kFault) return S::kFaulted;
      break;
    case S::kShrinking:
      // Shrinking stops the parent's work for good, whether or not it gave a child.
      if (event == E::kComplete || event == E::kFault) return S::kFaulted;
      break;
    case S::kAborting:
      if (event == E::kComplete) return S::kClosed;
      if (event == E::kAbortHung) return S::kStuck;
      break;
    case S::kClosed:
    case S::kStuck:
      // Ends: a late cancel finds nothing to do.
      if (event == E::kFault) return state;
      break;
  }
  return std::nullopt;
}

}  // namespace

const char* NcclStateName(NcclState state) {
  switch (state) {
    case NcclState::kUninitialized:
      return "Uninitialized";
    case NcclState::kInitializing:
      return "Initializing";
    case NcclState::kReady:
      return "Ready";
    case NcclState::kOperating:
      return "Operating";
    case NcclState::kFinalizing:
      return "Finalizing";
    case NcclState::kFaulted:
      return "Faulted";
    case NcclState::kShrinking:
      return "Shrinking";
    case NcclState::kAborting:
      return "Aborting";
    case NcclState::kClosed:
      return "Closed";
    case NcclState::kStuck:
      return "Stuck";
  }
  LOG(FATAL) << "no such state: " << static_cast<int>(state);
}

const char* NcclEventName(NcclEvent event) {
  switch (event) {
    case NcclEvent::kInit:
      return "Init";
    case NcclEvent::kOperate:
      return "Operate";
    case NcclEvent::kFinalize:
      return "Finalize";
    case NcclEvent::kShrink:
      return "Shrink";
    case NcclEvent::kAbort:
      return "Abort";
    case NcclEvent::kComplete:
      return "Complete";
    case NcclEvent::kFault:
      return "Fault";
    case NcclEvent::kAbortHung:
      return "AbortHung";
  }
  LOG(FATAL) << "no such event: " << static_cast<int>(event);
}

absl::StatusOr<NcclState> NextNcclState(NcclState state, NcclEvent event) {
  const std::optional<NcclState> next = Next(state, event);
  if (next.has_value()) return *next;
  return absl::FailedPreconditionError(
      absl::StrCat("NCCL communicator: ", NcclEventName(event), " is not possible in state ",
                   NcclStateName(state), "; build a new communicator at the next epoch"));
}

bool NcclStateHasHandle(NcclState state) {
  return state != NcclState::kUninitialized && state != NcclState::kClosed &&
         state != NcclState::kStuck;
}

}  // namespace conclave
