// Exchange of NcclFabric: sizes, then payloads.
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/fabric_error.h"
#include "comm/fabric/nccl/nccl_fabric.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// To read headers back after an abort, for the error's text.
constexpr absl::Duration kDiagnosisTimeout = absl::Milliseconds(200);

bool IsError(NcclResult result) {
  return result != NcclResult::kSuccess && result != NcclResult::kInProgress;
}

template <typename T>
absl::Span<uint8_t> BytesOf(std::vector<T>& values) {
  return {reinterpret_cast<uint8_t*>(values.data()), values.size() * sizeof(T)};
}

size_t RestCount(const std::vector<PeerMessages>& peers) {
  size_t rest = 0;
  for (const PeerMessages& peer : peers) rest += peer.rest();
  return rest;
}

}  // namespace

// One call of Exchange.
struct NcclFabric::Traffic {
  absl::Span<const SendBuffer> sends;
  absl::Span<RecvBuffer> recvs;
  std::vector<PeerMessages> to;     // by peer
  std::vector<PeerMessages> from;   // by peer
  std::vector<ExchangeHeader> out;  // [to]
  std::vector<ExchangeHeader> in;   // [from]
};

AwaitedPeers NcclFabric::HeadersMissing(const Traffic& traffic) {
  AwaitedPeers awaited;
  bool read = false;
  if (world_->state() == NcclState::kClosed && stager_.CopyBack().ok()) {
    const NcclCancel nobody;
    const SteadyTime deadline =
        std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(kDiagnosisTimeout);
    read = NcclPoll({deadline, options_.spin, &nobody}, [&] { return device_->Done(); }).end ==
           NcclWaitEnd::kDone;
  }
  if (read) stager_.Finish();
  for (size_t i = 0; i < traffic.from.size(); ++i) {
    const int peer = traffic.from[i].peer;
    if (read && HeaderArrived(traffic.in[i], received_[peer])) continue;
    awaited.receive_from.push_back(peer);
  }
  if (awaited.receive_from.empty()) {
    for (const PeerMessages& peer : traffic.to) awaited.send_to.push_back(peer.peer);
  }
  return awaited;
}

absl::Status NcclFabric::ExchangeSizes(Traffic& traffic, const WireOp& op) {
  for (const PeerMessages& peer : traffic.to) {
    ExchangeHeader header;
    header.magic = ExchangeHeader::kMagic;
    header.messages = static_cast<uint32_t>(peer.items.size());
    header.number = ++sent_[peer.peer];
    for (size_t i = 0; i < peer.items.size() - peer.rest(); ++i) {
      header.sizes[i] = traffic.sends[peer.items[i]].bytes.size();
    }
    traffic.out.push_back(header);
  }
  for (const PeerMessages& peer : traffic.from) ++received_[peer.peer];
  traffic.in.resize(traffic.from.size());
  stager_.Clear();
  const size_t out = stager_.AddIn(BytesOf(traffic.out));
  // Zeroes go to the device first: what is still zero after an abort has not come.
  const size_t in = stager_.AddInOut(BytesOf(traffic.in));
  RETURN_IF_ERROR(stager_.Map());
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    constexpr size_t kBytes = sizeof(ExchangeHeader);
    for (size_t i = 0; i < traffic.to.size(); ++i) {
      const NcclResult result =
          api_->send(stager_.device(out) + i * kBytes, kBytes, NcclType::kUint8, traffic.to[i].peer,
                     comm, device_->stream());
      if (IsError(result)) return result;
    }
    for (size_t i = 0; i < traffic.from.size(); ++i) {
      const NcclResult result =
          api_->recv(stager_.device(in) + i * kBytes, kBytes, NcclType::kUint8,
                     traffic.from[i].peer, comm, device_->stream());
      if (IsError(result)) return result;
    }
    return NcclResult::kSuccess;
  };
  work.then = [&] { return stager_.CopyBack(); };
  work.awaited = [&] { return HeadersMissing(traffic); };
  RETURN_IF_ERROR(world_->Run(work, op));
  stager_.Finish();
  for (size_t p = 0; p < traffic.from.size(); ++p) {
    const PeerMessages& peer = traffic.from[p];
    RETURN_IF_ERROR(CheckHeader(traffic.in[p], received_[peer.peer], peer, rank_, op.op));
    for (size_t i = 0; i < peer.items.size() - peer.rest(); ++i) {
      traffic.recvs[peer.items[i]].received = traffic.in[p].sizes[i];
    }
  }
  return absl::OkStatus();
}

absl::Status NcclFabric::ExchangeRestOfSizes(Traffic& traffic, const WireOp& op) {
  std::vector<uint64_t> out, in(RestCount(traffic.from));
  constexpr size_t kFirst = ExchangeHeader::kSizesMax;
  for (const PeerMessages& peer : traffic.to) {
    for (size_t i = kFirst; i < peer.items.size(); ++i) {
      out.push_back(traffic.sends[peer.items[i]].bytes.size());
    }
  }
  if (out.empty() && in.empty()) return absl::OkStatus();
  stager_.Clear();
  const size_t out_index = stager_.AddIn(BytesOf(out));
  const size_t in_index = stager_.AddOut(BytesOf(in));
  RETURN_IF_ERROR(stager_.Map());
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    uint8_t* data = stager_.device(out_index);
    for (const PeerMessages& peer : traffic.to) {
      const size_t bytes = peer.rest() * sizeof(uint64_t);
      if (bytes == 0) continue;
      const NcclResult result =
          api_->send(data, bytes, NcclType::kUint8, peer.peer, comm, device_->stream());
      if (IsError(result)) return result;
      data += bytes;
    }
    data = stager_.device(in_index);
    for (const PeerMessages& peer : traffic.from) {
      const size_t bytes = peer.rest() * sizeof(uint64_t);
      if (bytes == 0) continue;
      const NcclResult result =
          api_->recv(data, bytes, NcclType::kUint8, peer.peer, comm, device_->stream());
      if (IsError(result)) return result;
      data += bytes;
    }
    return NcclResult::kSuccess;
  };
  work.then = [&] { return stager_.CopyBack(); };
  work.awaited = [&] {
    AwaitedPeers awaited;
    for (const PeerMessages& peer : traffic.from) {
      if (peer.rest() > 0) awaited.receive_from.push_back(peer.peer);
    }
    for (const PeerMessages& peer : traffic.to) {
      if (peer.rest() > 0) awaited.send_to.push_back(peer.peer);
    }
    return awaited;
  };
  RETURN_IF_ERROR(world_->Run(work, op));
  stager_.Finish();
  size_t next = 0;
  for (const PeerMessages& peer : traffic.from) {
    for (size_t i = kFirst; i < peer.items.size(); ++i) {
      traffic.recvs[peer.items[i]].received = in[next++];
    }
  }
  return absl::OkStatus();
}

absl::Status NcclFabric::ExchangePayload(Traffic& traffic, const WireOp& op) {
  AwaitedPeers peers;
  std::vector<std::pair<size_t, int>> sends, recvs;  // index in the stager, peer
  stager_.Clear();
  std::vector<size_t> sizes_out, sizes_in;
  int64_t messages = 0, bytes = 0;
  for (const SendBuffer& send : traffic.sends) {
    if (send.peer == rank_) continue;
    ++messages;
    bytes += static_cast<int64_t>(send.bytes.size());
    if (send.bytes.empty()) continue;
    sends.emplace_back(stager_.AddIn(send.bytes), send.peer);
    sizes_out.push_back(send.bytes.size());
    peers.send_to.push_back(send.peer);
  }
  for (RecvBuffer& recv : traffic.recvs) {
    if (recv.peer == rank_) continue;
    if (recv.received > recv.bytes.size()) {
      return TooLongError(rank_, op.op, recv.peer, recv.bytes.size());
    }
    if (recv.received == 0) continue;
    recvs.emplace_back(stager_.AddOut(recv.bytes.first(recv.received)), recv.peer);
    sizes_in.push_back(recv.received);
    peers.receive_from.push_back(recv.peer);
  }
  Count(messages, bytes);
  if (sends.empty() && recvs.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(stager_.Map());
  NcclWork work;
  work.enqueue = [&](NcclComm comm) {
    for (size_t i = 0; i < sends.size(); ++i) {
      const NcclResult result =
          api_->send(stager_.device(sends[i].first), sizes_out[i], NcclType::kUint8,
                     sends[i].second, comm, device_->stream());
      if (IsError(result)) return result;
    }
    for (size_t i = 0; i < recvs.size(); ++i) {
      const NcclResult result =
          api_->recv(stager_.device(recvs[i].first), sizes_in[i], NcclType::kUint8, recvs[i].second,
                     comm, device_->stream());
      if (IsError(result)) return result;
    }
    return NcclResult::kSuccess;
  };
  work.then = [&] { return stager_.CopyBack(); };
  work.awaited = [&] { return peers; };
  RETURN_IF_ERROR(world_->Run(work, op));
  stager_.Finish();
  return absl::OkStatus();
}

absl::Status NcclFabric::CopyOwn(const Traffic& traffic, const WireOp& op) {
  std::vector<RecvBuffer*> own;
  for (RecvBuffer& recv : traffic.recvs) {
    if (recv.peer == rank_) own.push_back(&recv);
  }
  size_t next = 0;
  for (const SendBuffer& send : traffic.sends) {
    if (send.peer != rank_) continue;
    CHECK_LT(next, own.size()) << op.op.name << ": a message to the rank itself is not received";
    RecvBuffer& recv = *own[next++];
    if (send.bytes.size() > recv.bytes.size()) {
      return TooLongError(rank_, op.op, rank_, recv.bytes.size());
    }
    RETURN_IF_ERROR(CopySpan(send.bytes, recv.bytes.data(), op));
    recv.received = send.bytes.size();
  }
  CHECK_EQ(next, own.size()) << op.op.name << ": a message from the rank itself is not sent";
  return absl::OkStatus();
}

absl::Status NcclFabric::Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                                  const FabricOp& op) {
  for (const SendBuffer& send : sends) {
    CHECK(send.peer >= 0 && send.peer < size_) << "no such rank: " << send.peer;
  }
  for (const RecvBuffer& recv : recvs) {
    CHECK(recv.peer >= 0 && recv.peer < size_) << "no such rank: " << recv.peer;
  }
  return Operate(op, [&](const WireOp& wire) {
    Traffic traffic;
    traffic.sends = sends;
    traffic.recvs = recvs;
    traffic.to = MessagesByPeer(sends, rank_);
    traffic.from = MessagesByPeer(absl::Span<const RecvBuffer>(recvs), rank_);
    RETURN_IF_ERROR(CopyOwn(traffic, wire));
    if (traffic.to.empty() && traffic.from.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(ExchangeSizes(traffic, wire));
    RETURN_IF_ERROR(ExchangeRestOfSizes(traffic, wire));
    return ExchangePayload(traffic, wire);
  });
}

}  // namespace conclave
