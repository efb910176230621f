#include "comm/fabric/fabric_error.h"

#include <algorithm>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"

namespace conclave {
namespace {

// "rank 2" or "ranks 2, 5".
std::string RankList(std::vector<int> ranks) {
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < ranks.size(); ++i) absl::StrAppend(&text, i == 0 ? "" : ", ", ranks[i]);
  return text;
}

}  // namespace

absl::Status FabricError(absl::StatusCode code, int rank, const FabricOp& op,
                         absl::string_view what) {
  std::string text = absl::StrCat("fabric rank ", rank, ": ", op.name);
  if (op.layer >= 0) absl::StrAppend(&text, " of layer ", op.layer);
  return absl::Status(code, absl::StrCat(text, ": ", what));
}

absl::Status DeadlineError(int rank, const FabricOp& op, AwaitedPeers awaited) {
  std::string what;
  if (!awaited.receive_from.empty()) {
    what = absl::StrCat("no message from ", RankList(std::move(awaited.receive_from)));
  }
  if (!awaited.send_to.empty()) {
    absl::StrAppend(&what, what.empty() ? "" : ", and ", "a message not taken by ",
                    RankList(std::move(awaited.send_to)));
  }
  return FabricError(absl::StatusCode::kDeadlineExceeded, rank, op,
                     absl::StrCat(what, " within ", absl::FormatDuration(op.timeout),
                                  "; stopped, lost or behind"));
}

absl::Status PeerGoneError(int rank, const FabricOp& op, int peer, absl::string_view detail) {
  return FabricError(absl::StatusCode::kUnavailable, rank, op,
                     absl::StrCat("rank ", peer, " has gone (", detail, ")"));
}

absl::Status TooLongError(int rank, const FabricOp& op, int peer, size_t capacity) {
  return FabricError(
      absl::StatusCode::kInvalidArgument, rank, op,
      absl::StrFormat("the message of rank %d is longer than the %d bytes of its buffer; "
                      "the ranks disagree on the plan",
                      peer, capacity));
}

absl::Status CancelledError(int rank, const FabricOp& op, const absl::Status& reason) {
  return FabricError(reason.code(), rank, op, absl::StrCat("cancelled: ", reason.message()));
}

}  // namespace conclave
