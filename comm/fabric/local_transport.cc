#include "comm/fabric/local_transport.h"

#include <cstring>
#include <utility>

#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {

LocalWorld::LocalWorld(int ranks)
    : ranks_(ranks), queues_(static_cast<size_t>(ranks) * static_cast<size_t>(ranks)) {
  CHECK_GT(ranks, 0);
}

LocalTransport::LocalTransport(std::shared_ptr<LocalWorld> world, int rank)
    : world_(std::move(world)), rank_(rank) {
  CHECK(rank >= 0 && rank < world_->size()) << "no such rank: " << rank;
}

LocalTransport::~LocalTransport() {
  absl::MutexLock lock(&world_->mutex_);
  world_->ranks_[rank_].left = true;
  for (LocalWorld::Rank& other : world_->ranks_) other.wake.SignalAll();
}

void LocalTransport::Cancel(absl::Status reason) {
  absl::MutexLock lock(&world_->mutex_);
  LocalWorld::Rank& own = world_->ranks_[rank_];
  if (own.cancelled.ok()) own.cancelled = std::move(reason);
  own.wake.SignalAll();
}

void LocalTransport::PushLocked() {
  blocked_.assign(world_->size(), false);
  for (Item& item : outgoing_) {
    if (item.done || blocked_[item.peer]) continue;
    std::deque<LocalWorld::Message>& queue = world_->Queue(rank_, item.peer);
    if (queue.size() >= LocalWorld::kMessagesMax) {
      blocked_[item.peer] = true;
      continue;
    }
    counters_.messages_sent += 1;
    counters_.bytes_sent += static_cast<int64_t>(item.message.size());
    queue.push_back(std::move(item.message));
    item.done = true;
    --remaining_;
    world_->ranks_[item.peer].wake.Signal();
  }
}

void LocalTransport::PullLocked() {
  blocked_.assign(world_->size(), false);
  for (Item& item : incoming_) {
    if (item.done || blocked_[item.peer]) continue;
    std::deque<LocalWorld::Message>& queue = world_->Queue(item.peer, rank_);
    if (queue.empty()) {
      blocked_[item.peer] = true;
      continue;
    }
    if (queue.size() == LocalWorld::kMessagesMax) world_->ranks_[item.peer].wake.Signal();
    item.message = std::move(queue.front());
    queue.pop_front();
    item.done = true;
    --remaining_;
  }
}

absl::Status LocalTransport::CheckPeersLocked(const WireOp& op) {
  const absl::Status& cancelled = world_->ranks_[rank_].cancelled;
  if (!cancelled.ok()) return CancelledError(rank_, op.op, cancelled);
  for (const std::vector<Item>* items : {&incoming_, &outgoing_}) {
    for (const Item& item : *items) {
      if (!item.done && world_->ranks_[item.peer].left) {
        return PeerGoneError(rank_, op.op, item.peer, "its fabric was torn down");
      }
    }
  }
  return absl::OkStatus();
}

AwaitedPeers LocalTransport::Awaited() const {
  AwaitedPeers awaited;
  for (const Item& item : incoming_) {
    if (!item.done) awaited.receive_from.push_back(item.peer);
  }
  for (const Item& item : outgoing_) {
    if (!item.done) awaited.send_to.push_back(item.peer);
  }
  return awaited;
}

absl::Status LocalTransport::Move(const WireOp& op) {
  absl::MutexLock lock(&world_->mutex_);
  while (true) {
    PushLocked();
    PullLocked();
    RETURN_IF_ERROR(CheckPeersLocked(op));
    if (remaining_ == 0) return absl::OkStatus();
    const SteadyTime now = std::chrono::steady_clock::now();
    if (now >= op.deadline) return DeadlineError(rank_, op.op, Awaited());
    world_->ranks_[rank_].wake.WaitWithTimeout(&world_->mutex_,
                                               absl::FromChrono(op.deadline - now));
  }
}

absl::Status LocalTransport::Exchange(absl::Span<const SendBuffer> sends,
                                      absl::Span<RecvBuffer> recvs, const WireOp& op) {
  if (!dead_.ok()) return dead_;
  outgoing_.clear();
  incoming_.clear();
  for (const SendBuffer& send : sends) {
    outgoing_.push_back({send.peer, false, {send.bytes.begin(), send.bytes.end()}});
  }
  for (const RecvBuffer& recv : recvs) incoming_.push_back({recv.peer, false, {}});
  remaining_ = sends.size() + recvs.size();
  dead_ = Move(op);
  if (!dead_.ok()) return dead_;
  for (size_t i = 0; i < recvs.size(); ++i) {
    const LocalWorld::Message& message = incoming_[i].message;
    recvs[i].received = message.size();
    if (message.size() > recvs[i].bytes.size()) {
      dead_ = TooLongError(rank_, op.op, recvs[i].peer, recvs[i].bytes.size());
      return dead_;
    }
    if (!message.empty()) std::memcpy(recvs[i].bytes.data(), message.data(), message.size());
  }
  return absl::OkStatus();
}

}  // namespace conclave
