// What fake streams hold: copies, sums and launched groups of NCCL operations; and how groups of
// different ranks find each other. Values and plain functions under the lock of FakeNccl.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "comm/fabric/nccl/nccl_abi.h"
#include "comm/fabric/nccl/nccl_device.h"

namespace conclave {

enum class FakeNcclKind {
  kSend,
  kRecv,
  kAllReduce,
  kReduceScatter,
  kAllGather,
  kAllToAll,
  kBroadcast,
};

struct FakeNcclOp {
  FakeNcclKind kind = FakeNcclKind::kSend;
  const void* from = nullptr;
  void* to = nullptr;
  size_t bytes = 0;  // `count` of the call, in bytes
  int peer = 0;      // or the root
  CudaStream stream = nullptr;
  int sequence = 0;  // of the collectives of a communicator
  bool done = false;
};

struct FakeNcclComm;

struct FakeNcclLaunch {
  FakeNcclComm* comm = nullptr;
  std::vector<FakeNcclOp> ops;
};

struct FakeNcclCopy {
  void* to = nullptr;
  const void* from = nullptr;
  size_t bytes = 0;
};

struct FakeNcclSum {
  NcclRows rows;
  float* out = nullptr;
};

struct FakeNcclTask {
  std::optional<FakeNcclCopy> copy;
  std::optional<FakeNcclSum> sum;
  std::optional<FakeNcclLaunch> launch;
};

struct FakeNcclStream {
  bool lost = false;
  std::deque<FakeNcclTask> tasks;
};

struct FakeNcclWorld {
  std::vector<FakeNcclComm*> members;  // null where a rank has not come
  std::vector<int> excluded;           // of a world made by shrinking
};

struct FakeNcclComm {
  enum class Pending { kNothing, kInit, kLaunch, kFinalize, kShrink };

  std::shared_ptr<FakeNcclWorld> world;
  int rank = 0;
  int gpu = 0;
  FakeNcclStream* stream = nullptr;
  Pending pending = Pending::kNothing;
  int polls_left = 0;
  FakeNcclLaunch launch;  // of kLaunch
  FakeNcclComm* child = nullptr;
  NcclComm* child_slot = nullptr;  // of kShrink
  std::vector<std::pair<std::vector<int>, std::shared_ptr<FakeNcclWorld>>> shrunk;
  NcclResult error = NcclResult::kSuccess;
  int launches = 0;
  int collectives = 0;
  bool finalized = false;
  bool closed = false;
};

// The operations of one ncclGroupStart .. ncclGroupEnd.
struct FakeNcclGroup {
  int depth = 0;
  NcclResult error = NcclResult::kSuccess;
  std::vector<FakeNcclLaunch> launches;  // by communicator
};

bool IsPointToPoint(FakeNcclKind kind);

// Bytes that an operation reads and writes, among `size` ranks.
struct FakeNcclExtent {
  size_t from = 0;
  size_t to = 0;
};
FakeNcclExtent ExtentOf(const FakeNcclOp& op, int rank, int size);

// Does what the head of a stream can do now; true when something was done.
bool AdvanceHead(FakeNcclStream& stream);

}  // namespace conclave
