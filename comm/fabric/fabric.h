// Fabric: collectives among the ranks of a replica, on spans of memory (comm/device). One thread of
// a rank uses it at a time (the engine's); Cancel may be called from any. All ranks of a group call
// the same operations in the same order. Every wait ends by completion or error: DeadlineExceeded
// names rank, operation, layer and the peer waited for. After an error the fabric is dead: it is
// torn down and rebuilt at the next epoch. Sums follow the fixed tree of comm/base/reduction.h over
// the group's index, so they are the same bits on each rank.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"

namespace conclave {

// Some ranks of the fabric, in the order that gives each its index; `index` is the caller's.
struct FabricGroup {
  std::vector<int> ranks;
  int index = 0;
  int size() const { return static_cast<int>(ranks.size()); }
};

// What an operation is, for errors and traces; and how long it may take.
struct FabricOp {
  const char* name = "";  // "moe_dispatch"
  int layer = -1;
  absl::Duration timeout = absl::Seconds(30);
};

struct SendBuffer {
  int peer = 0;  // rank in the fabric
  absl::Span<const uint8_t> bytes;
};

struct RecvBuffer {
  int peer = 0;
  absl::Span<uint8_t> bytes;  // capacity
  size_t received = 0;        // set on return: the size that came, at most the capacity
};

// Counted where bytes leave the rank, own copies excluded.
struct FabricCounters {
  int64_t messages_sent = 0;
  int64_t bytes_sent = 0;
};

class Fabric {
 public:
  virtual ~Fabric() = default;
  virtual int rank() const = 0;

  // Sends and receives a set of messages at once and waits for all. Between two ranks messages
  // match in order. Sizes of zero travel too (as an empty message). A message longer than its
  // receive buffer is an error.
  virtual absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                                const FabricOp& op) = 0;

  // data := sum over the group, in place.
  virtual absl::Status AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                                    const FabricOp& op) = 0;
  // out[index] := the part of group member `index`; the sizes may differ and are known to all.
  virtual absl::Status AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                                  absl::Span<const absl::Span<uint8_t>> out,
                                  const FabricOp& op) = 0;
  // out := the caller's part (index-th of size equal parts) of the sum over the group.
  virtual absl::Status ReduceScatterSum(const FabricGroup& group, absl::Span<const float> data,
                                        absl::Span<float> out, const FabricOp& op) = 0;
  // data := data of group member `root` (an index).
  virtual absl::Status Broadcast(const FabricGroup& group, int root, absl::Span<uint8_t> data,
                                 const FabricOp& op) = 0;

  // Fails operations that run or come with `reason`, soon. Thread-safe.
  virtual void Cancel(absl::Status reason) = 0;

  virtual FabricCounters counters() const = 0;
};

// The ranks that an error of a fabric (or what WithContext made of it) blames, ascending: those
// that ended, or were waited for and not heard of. Empty when it blames nobody.
std::vector<int> FaultyRanks(const absl::Status& status);
absl::Status WithFaultyRanks(absl::Status status, const std::vector<int>& ranks);

// all_to_all_v: sends[i] goes to group member i, recvs[i] comes from it (capacity in, size out);
// own parts are copied.
absl::Status AllToAllV(Fabric& fabric, const FabricGroup& group,
                       absl::Span<const absl::Span<const uint8_t>> sends,
                       absl::Span<RecvBuffer> recvs, const FabricOp& op);

// A fabric endpoint before its peers are known: made at Assign, connected at Commit
// (comm/types/worker_facts.h).
class FabricEndpoint {
 public:
  virtual ~FabricEndpoint() = default;
  // Opaque bytes that let peers connect.
  virtual std::string Address() const = 0;

  struct Peers {
    std::vector<std::string> addresses;  // by rank, the own included
    std::vector<std::string> nodes;      // by rank: equal names share memory
    int rank = 0;
    uint64_t epoch = 0;  // fences messages of an older fabric
  };
  // Consumes the endpoint.
  virtual absl::StatusOr<std::unique_ptr<Fabric>> Connect(const Peers& peers) = 0;
};

}  // namespace conclave
