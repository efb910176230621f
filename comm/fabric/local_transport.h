// LocalTransport: ranks that are threads of one process, for tests and for several workers in one
// process. LocalWorld is the memory they share: a bounded queue of messages for each pair. A rank
// whose transport is destroyed has left: who waits for it gets Unavailable, not a deadline. One
// thread uses a transport; Cancel comes from any; the world is thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "comm/fabric/fabric_error.h"
#include "comm/fabric/point_to_point.h"

namespace conclave {

class LocalWorld {
 public:
  // Messages of one pair that may wait; a sender beyond it waits itself.
  static constexpr size_t kMessagesMax = 64;

  explicit LocalWorld(int ranks);

  int size() const { return static_cast<int>(ranks_.size()); }

 private:
  friend class LocalTransport;
  using Message = std::vector<uint8_t>;
  struct Rank {
    absl::CondVar wake;
    absl::Status cancelled;
    bool left = false;
  };

  std::deque<Message>& Queue(int from, int to) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return queues_[static_cast<size_t>(from) * ranks_.size() + to];
  }

  absl::Mutex mutex_;
  std::deque<Rank> ranks_;                                           // fields guarded by mutex_
  std::vector<std::deque<Message>> queues_ ABSL_GUARDED_BY(mutex_);  // [from, to]
};

class LocalTransport final : public PointToPoint {
 public:
  LocalTransport(std::shared_ptr<LocalWorld> world, int rank);
  ~LocalTransport() override;

  int rank() const override { return rank_; }
  int size() const override { return world_->size(); }
  absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                        const WireOp& op) override;
  void Cancel(absl::Status reason) override;
  FabricCounters counters() const override { return counters_; }

 private:
  // One message of an Exchange; kept in the order of the call, which is the order on the wire of a
  // pair.
  struct Item {
    int peer = 0;
    bool done = false;
    LocalWorld::Message message;
  };

  absl::Status Move(const WireOp& op);
  // What can move without waiting.
  void PushLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(world_->mutex_);
  void PullLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(world_->mutex_);
  absl::Status CheckPeersLocked(const WireOp& op) ABSL_EXCLUSIVE_LOCKS_REQUIRED(world_->mutex_);
  AwaitedPeers Awaited() const;

  const std::shared_ptr<LocalWorld> world_;
  const int rank_;
  absl::Status dead_;
  FabricCounters counters_;
  std::vector<Item> outgoing_;
  std::vector<Item> incoming_;
  std::vector<bool> blocked_;  // [size] peers behind an item that cannot move yet
  size_t remaining_ = 0;
};

}  // namespace conclave
