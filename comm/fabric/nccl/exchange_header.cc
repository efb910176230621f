#include "comm/fabric/nccl/exchange_header.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/fabric/fabric_error.h"

namespace conclave {
namespace {

template <typename Buffer>
std::vector<PeerMessages> ByPeer(absl::Span<const Buffer> buffers, int self) {
  std::map<int, std::vector<size_t>> peers;
  for (size_t i = 0; i < buffers.size(); ++i) {
    if (buffers[i].peer != self) peers[buffers[i].peer].push_back(i);
  }
  std::vector<PeerMessages> messages;
  for (auto& [peer, items] : peers) messages.push_back({peer, std::move(items)});
  return messages;
}

}  // namespace

std::vector<PeerMessages> MessagesByPeer(absl::Span<const SendBuffer> sends, int self) {
  return ByPeer(sends, self);
}

std::vector<PeerMessages> MessagesByPeer(absl::Span<const RecvBuffer> recvs, int self) {
  return ByPeer(recvs, self);
}

bool HeaderArrived(const ExchangeHeader& header, uint64_t number) {
  return header.magic == ExchangeHeader::kMagic && header.number == number;
}

absl::Status CheckHeader(const ExchangeHeader& header, uint64_t number, const PeerMessages& due,
                         int rank, const FabricOp& op) {
  if (header.magic != ExchangeHeader::kMagic || header.number != number) {
    return FabricError(
        absl::StatusCode::kInvalidArgument, rank, op,
        absl::StrCat("rank ", due.peer, " is at exchange ", header.number,
                     " with this rank, which is at ", number, "; the ranks disagree on the plan"));
  }
  if (header.messages != due.items.size()) {
    return FabricError(
        absl::StatusCode::kInvalidArgument, rank, op,
        absl::StrCat("rank ", due.peer, " sends ", header.messages, " messages where ",
                     due.items.size(), " are due; the ranks disagree on the plan"));
  }
  return absl::OkStatus();
}

}  // namespace conclave
