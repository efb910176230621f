#include "comm/fabric/fabric_error.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

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

std::vector<int> AwaitedPeers::All() const {
  std::vector<int> ranks = receive_from;
  ranks.insert(ranks.end(), send_to.begin(), send_to.end());
  std::sort(ranks.begin(), ranks.end());
  ranks.erase(std::unique(ranks.begin(), ranks.end()), ranks.end());
  return ranks;
}

absl::Status DeadlineError(int rank, const FabricOp& op, AwaitedPeers awaited) {
  const std::vector<int> suspects = awaited.All();
  return DeadlineError(rank, op, std::move(awaited), suspects);
}

absl::Status DeadlineError(int rank, const FabricOp& op, AwaitedPeers awaited,
                           const std::vector<int>& suspects) {
  const auto blamed = [&](int peer) {
    return std::find(suspects.begin(), suspects.end(), peer) != suspects.end();
  };
  std::vector<int> waiting = awaited.All();
  std::erase_if(waiting, blamed);
  std::erase_if(awaited.receive_from, std::not_fn(blamed));
  std::erase_if(awaited.send_to, std::not_fn(blamed));
  std::string what;
  if (!awaited.receive_from.empty()) {
    what = absl::StrCat("no message from ", RankList(std::move(awaited.receive_from)));
  }
  if (!awaited.send_to.empty()) {
    absl::StrAppend(&what, what.empty() ? "" : ", and ", "a message not taken by ",
                    RankList(std::move(awaited.send_to)));
  }
  if (what.empty()) what = absl::StrCat("no message from ", RankList(suspects));
  absl::StrAppend(&what, " within ", absl::FormatDuration(op.timeout), "; stopped, lost or behind");
  if (!waiting.empty()) {
    absl::StrAppend(&what, "; waited for by ", RankList(std::move(waiting)), " too");
  }
  return WithFaultyRanks(FabricError(absl::StatusCode::kDeadlineExceeded, rank, op, what),
                         suspects);
}

absl::Status BlameError(int rank, const FabricOp& op, bool gone, const Blame& blame) {
  const absl::string_view have = blame.ranks.size() == 1 ? " has gone (" : " have gone (";
  const std::string what =
      gone ? absl::StrCat(RankList(blame.ranks), have, blame.detail, ")")
           : absl::StrCat("no message from ", RankList(blame.ranks), " (", blame.detail, ")");
  const auto code = gone ? absl::StatusCode::kUnavailable : absl::StatusCode::kDeadlineExceeded;
  return WithFaultyRanks(FabricError(code, rank, op, what), blame.ranks);
}

absl::Status PeerGoneError(int rank, const FabricOp& op, int peer, absl::string_view detail) {
  return BlameError(rank, op, true, {{peer}, std::string(detail)});
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
