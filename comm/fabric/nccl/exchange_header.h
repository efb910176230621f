// ExchangeHeader: how a receiver learns the sizes that NCCL needs on both sides. Before the
// payloads of an Exchange each sender gives each of its peers one header of fixed size: how many
// messages come, and the sizes of the first of them; when there are more, the other sizes follow
// in one message whose length both sides then know. The number of the exchange fences headers that
// were left in memory. Pure values; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "comm/fabric/fabric.h"

namespace conclave {

struct ExchangeHeader {
  static constexpr uint32_t kMagic = 0x3148584e;  // "NXH1"
  static constexpr int kSizesMax = 14;

  uint32_t magic = 0;
  uint32_t messages = 0;
  uint64_t number = 0;  // of the exchange between the two ranks, from 1
  uint64_t sizes[kSizesMax] = {};
};
static_assert(sizeof(ExchangeHeader) == 128);

// The messages between the caller and one peer, in order.
struct PeerMessages {
  int peer = 0;
  std::vector<size_t> items;  // indexes into the sends or the receives of the call

  // Sizes that do not fit into the header.
  size_t rest() const {
    const size_t first = ExchangeHeader::kSizesMax;
    return items.size() > first ? items.size() - first : 0;
  }
};

// By peer, ascending; messages with `self` are left out.
std::vector<PeerMessages> MessagesByPeer(absl::Span<const SendBuffer> sends, int self);
std::vector<PeerMessages> MessagesByPeer(absl::Span<const RecvBuffer> recvs, int self);

// True when the header of exchange `number` has arrived whole.
bool HeaderArrived(const ExchangeHeader& header, uint64_t number);

// InvalidArgument when the header of a peer does not fit what is to be received from it: another
// exchange, another count of messages.
absl::Status CheckHeader(const ExchangeHeader& header, uint64_t number, const PeerMessages& due,
                         int rank, const FabricOp& op);

}  // namespace conclave
