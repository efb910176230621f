#include "comm/fabric/p2p_fabric.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/fabric_error.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Floats summed at a time: the rows of eight members stay in the first-level cache.
constexpr size_t kSumBlock = 512;

WireOp StartOp(const FabricOp& op) {
  const absl::Duration bounded = std::clamp(op.timeout, absl::ZeroDuration(), absl::Hours(24));
  return {op, std::chrono::steady_clock::now() + absl::ToChronoNanoseconds(bounded)};
}

absl::Span<const uint8_t> AsBytes(absl::Span<const float> floats) {
  return {reinterpret_cast<const uint8_t*>(floats.data()), floats.size() * sizeof(float)};
}

absl::Span<uint8_t> AsBytes(absl::Span<float> floats) {
  return {reinterpret_cast<uint8_t*>(floats.data()), floats.size() * sizeof(float)};
}

void CopyBytes(absl::Span<const uint8_t> from, uint8_t* to) {
  if (!from.empty() && from.data() != to) std::memmove(to, from.data(), from.size());
}

size_t PartBegin(size_t count, int part, int parts) { return count * part / parts; }

}  // namespace

P2pFabric::P2pFabric(std::unique_ptr<PointToPoint> transport) : transport_(std::move(transport)) {}

void P2pFabric::CheckGroup(const FabricGroup& group) const {
  CHECK(group.index >= 0 && group.index < group.size()) << "index " << group.index;
  CHECK_EQ(group.ranks[group.index], rank()) << "the group gives another rank the caller's index";
}

absl::Status P2pFabric::Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                                 const FabricOp& op) {
  const WireOp wire = StartOp(op);
  bool own = false;
  for (const SendBuffer& send : sends) {
    CHECK(send.peer >= 0 && send.peer < transport_->size()) << "no such rank: " << send.peer;
    own |= send.peer == rank();
  }
  for (const RecvBuffer& recv : recvs) {
    CHECK(recv.peer >= 0 && recv.peer < transport_->size()) << "no such rank: " << recv.peer;
    own |= recv.peer == rank();
  }
  return own ? ExchangeWithSelf(sends, recvs, wire) : transport_->Exchange(sends, recvs, wire);
}

absl::Status P2pFabric::ExchangeWithSelf(absl::Span<const SendBuffer> sends,
                                         absl::Span<RecvBuffer> recvs, const WireOp& op) {
  sends_.clear();
  recvs_.clear();
  std::vector<RecvBuffer*> own;
  for (RecvBuffer& recv : recvs) {
    if (recv.peer == rank()) {
      own.push_back(&recv);
    } else {
      recvs_.push_back(recv);
    }
  }
  size_t next = 0;
  for (const SendBuffer& send : sends) {
    if (send.peer != rank()) {
      sends_.push_back(send);
      continue;
    }
    CHECK_LT(next, own.size()) << op.op.name << ": a message to the rank itself is not received";
    RecvBuffer& recv = *own[next++];
    const size_t capacity = recv.bytes.size();
    if (send.bytes.size() > capacity) return TooLongError(rank(), op.op, rank(), capacity);
    CopyBytes(send.bytes, recv.bytes.data());
    recv.received = send.bytes.size();
  }
  CHECK_EQ(next, own.size()) << op.op.name << ": a message from the rank itself is not sent";
  RETURN_IF_ERROR(transport_->Exchange(sends_, absl::MakeSpan(recvs_), op));
  size_t i = 0;
  for (RecvBuffer& recv : recvs) {
    if (recv.peer != rank()) recv.received = recvs_[i++].received;
  }
  return absl::OkStatus();
}

absl::Status P2pFabric::ExchangeFull(const WireOp& op) {
  RETURN_IF_ERROR(transport_->Exchange(sends_, absl::MakeSpan(recvs_), op));
  for (const RecvBuffer& recv : recvs_) {
    if (recv.received == recv.bytes.size()) continue;
    absl::Status error =
        FabricError(absl::StatusCode::kInvalidArgument, rank(), op.op,
                    absl::StrCat("rank ", recv.peer, " sent ", recv.received, " bytes where ",
                                 recv.bytes.size(), " were due; the ranks disagree on the plan"));
    transport_->Cancel(error);
    return error;
  }
  return absl::OkStatus();
}

absl::Status P2pFabric::Gather(const FabricGroup& group, absl::Span<const uint8_t> part,
                               absl::Span<const absl::Span<uint8_t>> out, const WireOp& op) {
  CHECK_EQ(static_cast<int>(out.size()), group.size());
  CHECK_EQ(part.size(), out[group.index].size());
  CopyBytes(part, out[group.index].data());
  sends_.clear();
  recvs_.clear();
  for (int step = 1; step < group.size(); ++step) {
    const int to = (group.index + step) % group.size();
    const int from = (group.index + group.size() - step) % group.size();
    sends_.push_back({group.ranks[to], part});
    recvs_.push_back({group.ranks[from], out[from]});
  }
  return ExchangeFull(op);
}

absl::Status P2pFabric::AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                                   absl::Span<const absl::Span<uint8_t>> out, const FabricOp& op) {
  CheckGroup(group);
  return Gather(group, part, out, StartOp(op));
}

void P2pFabric::TreeSumRows(size_t count, float* out) {
  const size_t n = rows_.size();
  for (size_t begin = 0; begin < count; begin += kSumBlock) {
    const size_t end = std::min(count, begin + kSumBlock);
    for (size_t stride = 1; stride < n; stride *= 2) {
      for (size_t i = 0; i + stride < n; i += 2 * stride) {
        float* a = rows_[i];
        const float* b = rows_[i + stride];
        for (size_t k = begin; k < end; ++k) a[k] += b[k];
      }
    }
  }
  if (rows_[0] != out && count > 0) std::memcpy(out, rows_[0], count * sizeof(float));
}

absl::Status P2pFabric::GatherAndSum(const FabricGroup& group, absl::Span<float> data,
                                     const WireOp& op) {
  const int n = group.size();
  float* scratch = scratch_.Floats(data.size() * n);
  rows_.clear();
  parts_.clear();
  for (int i = 0; i < n; ++i) {
    rows_.push_back(scratch + data.size() * i);
    parts_.push_back(AsBytes(absl::MakeSpan(rows_.back(), data.size())));
  }
  RETURN_IF_ERROR(Gather(group, AsBytes(absl::Span<const float>(data)), parts_, op));
  TreeSumRows(data.size(), data.data());
  return absl::OkStatus();
}

absl::Status P2pFabric::SumOwnPart(const FabricGroup& group, absl::Span<const float> data,
                                   absl::Span<float> out, const WireOp& op) {
  const int n = group.size();
  const size_t count = out.size();
  float* scratch = scratch_.Floats(count * n);
  rows_.clear();
  sends_.clear();
  recvs_.clear();
  for (int i = 0; i < n; ++i) rows_.push_back(scratch + count * i);
  for (int i = 0; i < n; ++i) {
    const size_t begin = PartBegin(data.size(), i, n);
    const auto part = data.subspan(begin, PartBegin(data.size(), i + 1, n) - begin);
    if (i == group.index) {
      CHECK_EQ(part.size(), count);
      CopyBytes(AsBytes(part), reinterpret_cast<uint8_t*>(rows_[i]));
      continue;
    }
    sends_.push_back({group.ranks[i], AsBytes(part)});
    recvs_.push_back({group.ranks[i], AsBytes(absl::MakeSpan(rows_[i], count))});
  }
  RETURN_IF_ERROR(ExchangeFull(op));
  TreeSumRows(count, out.data());
  return absl::OkStatus();
}

absl::Status P2pFabric::AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                                     const FabricOp& op) {
  CheckGroup(group);
  const WireOp wire = StartOp(op);
  if (data.size() * sizeof(float) <= kOneRoundBytesMax) return GatherAndSum(group, data, wire);
  const int n = group.size();
  const size_t begin = PartBegin(data.size(), group.index, n);
  const size_t end = PartBegin(data.size(), group.index + 1, n);
  const absl::Span<float> own = data.subspan(begin, end - begin);
  RETURN_IF_ERROR(SumOwnPart(group, data, own, wire));
  parts_.clear();
  for (int i = 0; i < n; ++i) {
    const size_t first = PartBegin(data.size(), i, n);
    parts_.push_back(AsBytes(data.subspan(first, PartBegin(data.size(), i + 1, n) - first)));
  }
  return Gather(group, AsBytes(absl::Span<const float>(own)), parts_, wire);
}

absl::Status P2pFabric::ReduceScatterSum(const FabricGroup& group, absl::Span<const float> data,
                                         absl::Span<float> out, const FabricOp& op) {
  CheckGroup(group);
  CHECK_EQ(data.size(), out.size() * group.size()) << op.name << ": parts are equal";
  return SumOwnPart(group, data, out, StartOp(op));
}

absl::Status P2pFabric::Broadcast(const FabricGroup& group, int root, absl::Span<uint8_t> data,
                                  const FabricOp& op) {
  CheckGroup(group);
  CHECK(root >= 0 && root < group.size()) << "no such member: " << root;
  const WireOp wire = StartOp(op);
  const int n = group.size();
  const int from_root = (group.index - root + n) % n;
  int reach = 1;  // members 0..reach (counted from the root) have the data
  for (; reach < n; reach *= 2) {
    sends_.clear();
    recvs_.clear();
    if (from_root < reach) {
      const int to = from_root + reach;
      if (to < n) sends_.push_back({group.ranks[(to + root) % n], data});
    } else if (from_root < 2 * reach) {
      recvs_.push_back({group.ranks[(from_root - reach + root) % n], data});
    }
    RETURN_IF_ERROR(ExchangeFull(wire));
  }
  return absl::OkStatus();
}

}  // namespace conclave
