// The texts of a fabric's errors: who was doing what, in which layer, and which peer was waited
// for. Pure; any thread.
#pragma once

#include <string>
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

  std::vector<int> All() const;
};

// DeadlineExceeded: "... no message from rank 2 within 200ms; ...". Blames `suspects`, all awaited
// ranks by default; a rank that is awaited but not blamed is said to wait for them.
absl::Status DeadlineError(int rank, const FabricOp& op, AwaitedPeers awaited);
absl::Status DeadlineError(int rank, const FabricOp& op, AwaitedPeers awaited,
                           const std::vector<int>& suspects);

// Ranks at fault, and how that is known.
struct Blame {
  std::vector<int> ranks;
  std::string detail;
};
// `gone`: Unavailable: "... ranks 2, 5 have gone (detail)"; else DeadlineExceeded: "... no message
// from ranks 2, 5 (detail)".
absl::Status BlameError(int rank, const FabricOp& op, bool gone, const Blame& blame);

// Unavailable: "... rank 2 has gone (detail)".
absl::Status PeerGoneError(int rank, const FabricOp& op, int peer, absl::string_view detail);

// InvalidArgument: a message exceeds its buffer.
absl::Status TooLongError(int rank, const FabricOp& op, int peer, size_t capacity);

// The code and text of `reason`, with what was cancelled.
absl::Status CancelledError(int rank, const FabricOp& op, const absl::Status& reason);

}  // namespace conclave
