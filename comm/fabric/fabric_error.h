// The texts of a fabric's errors: who was doing what, in which layer, and which peer was waited
// for. Pure; any thread.
#pragma once

#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "comm/fabric/fabric.h"

namespace conclave {

// "fabric rank 1: moe_dispatch of layer 3: what".
absl::Status FabricError(absl::StatusCode code, int rank, const FabricOp& op,
                         absl::string_view what);

// Ranks whose message did not come, and that did not take ours; each listed once, ascending, in the
// text.
struct AwaitedPeers {
  std::vector<int> receive_from;
  std::vector<int> send_to;
};

// DeadlineExceeded: "... no message from rank 2 within 200ms; ...".
absl::Status DeadlineError(int rank, const FabricOp& op, AwaitedPeers awaited);

// Unavailable: "... rank 2 has gone (detail)".
absl::Status PeerGoneError(int rank, const FabricOp& op, int peer, absl::string_view detail);

// InvalidArgument: a message exceeds its buffer.
absl::Status TooLongError(int rank, const FabricOp& op, int peer, size_t capacity);

// The code and text of `reason`, with what was cancelled.
absl::Status CancelledError(int rank, const FabricOp& op, const absl::Status& reason);

}  // namespace conclave
