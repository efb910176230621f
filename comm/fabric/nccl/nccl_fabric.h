// NcclFabric: Fabric over NCCL, on spans of device memory, and of host memory through staging
// (nccl_device.h says how they are told apart). One communicator for all ranks carries Exchange;
// each other group gets a communicator of its own at its first collective, whose id its first
// member sends to the others. Owned by the engine and used on its thread; Cancel from any.
//
// Work runs on the device's stream: what is in it before a call is read by the call, and a call
// returns when its work is done. Exchange takes two NCCL groups, the sizes and then the payloads
// (exchange_header.h); both sides of a pair must give its messages in one Exchange each, equal in
// number. Sums: NCCL adds in an order of its own, so kFixedTree, the default, gathers the parts
// with NCCL and adds them on the device in the tree that fabric.h promises; kNccl is for runs
// without --deterministic. The sizes of collectives are not compared: ranks that disagree on them
// meet the deadline.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "comm/fabric/fabric.h"
#include "comm/fabric/nccl/exchange_header.h"
#include "comm/fabric/nccl/nccl_api.h"
#include "comm/fabric/nccl/nccl_communicator.h"
#include "comm/fabric/nccl/nccl_device.h"
#include "comm/fabric/nccl/nccl_stager.h"
#include "comm/fabric/nccl/nccl_wait.h"

namespace conclave {

enum class NcclSums { kFixedTree, kNccl };

struct NcclFabricOptions {
  NcclSums sums = NcclSums::kFixedTree;
  bool all_to_all = true;  // ncclAlltoAll where the library has it
  // Device memory registered as a window that all ranks see (ncclCommWindowRegister); 0: none.
  size_t symmetric_window_bytes = 0;
  absl::Duration connect_timeout = absl::Seconds(30);
  absl::Duration abort_timeout = absl::Seconds(5);
  absl::Duration spin = absl::Microseconds(50);
};

class NcclFabric final : public Fabric {
 public:
  // Communicators of groups that are not all ranks; each takes device memory.
  static constexpr size_t kGroupsMax = 16;
  // Payloads of all_reduce up to this many bytes are gathered whole (kFixedTree).
  static constexpr size_t kOneRoundBytesMax = 16 << 10;

  struct World {
    int rank = 0;
    int size = 1;
    uint64_t epoch = 0;
    NcclUniqueId id;
  };
  // Joins the others, who must do so too within the connect_timeout, and compares the epochs.
  static absl::StatusOr<std::unique_ptr<NcclFabric>> Connect(std::shared_ptr<const NcclApi> api,
                                                             std::unique_ptr<NcclDevice> device,
                                                             const World& world,
                                                             const NcclFabricOptions& options);
  ~NcclFabric() override;

  int rank() const override { return rank_; }
  absl::Status Exchange(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                        const FabricOp& op) override;
  absl::Status AllReduceSum(const FabricGroup& group, absl::Span<float> data,
                            const FabricOp& op) override;
  absl::Status AllGatherV(const FabricGroup& group, absl::Span<const uint8_t> part,
                          absl::Span<const absl::Span<uint8_t>> out, const FabricOp& op) override;
  absl::Status ReduceScatterSum(const FabricGroup& group, absl::Span<const float> data,
                                absl::Span<float> out, const FabricOp& op) override;
  absl::Status Broadcast(const FabricGroup& group, int root, absl::Span<uint8_t> data,
                         const FabricOp& op) override;
  void Cancel(absl::Status reason) override { cancel_->Cancel(std::move(reason)); }
  FabricCounters counters() const override { return counters_; }

  // Whether sums are the bits of the fixed tree.
  bool deterministic() const { return options_.sums == NcclSums::kFixedTree; }
  // The registered window; empty when none was asked for or this machine has none.
  absl::Span<uint8_t> symmetric_window() const { return window_span_; }
  // Ends the communicators in order; all ranks must call it. The fabric is dead afterwards.
  absl::Status Finalize(const FabricOp& op);

 private:
  NcclFabric(std::shared_ptr<const NcclApi> api, std::unique_ptr<NcclDevice> device,
             const World& world, const NcclFabricOptions& options);

  NcclCommunicatorOptions CommunicatorOptions(std::vector<int> ranks, int index) const;
  absl::Status CompareEpochs(uint64_t epoch, const WireOp& op);
  absl::Status RegisterWindow(const WireOp& op);
  void ReleaseWindow();

  // The error that ends an operation: the fabric is dead from then on.
  absl::Status Fail(absl::Status error);
  // Runs `body` unless the fabric is dead or cancelled, and settles its outcome.
  absl::Status Operate(const FabricOp& op, absl::FunctionRef<absl::Status(const WireOp&)> body);
  void CheckGroup(const FabricGroup& group) const;
  absl::StatusOr<NcclCommunicator*> CommunicatorOf(const FabricGroup& group, const WireOp& op);
  absl::Status ShareId(const FabricGroup& group, NcclUniqueId& id, const WireOp& op);
  absl::StatusOr<float*> Rows(size_t floats);

  void Count(int64_t messages, int64_t bytes);

  // nccl_exchange.cc
  struct Traffic;
  absl::Status ExchangeSizes(Traffic& traffic, const WireOp& op);
  absl::Status ExchangeRestOfSizes(Traffic& traffic, const WireOp& op);
  absl::Status ExchangePayload(Traffic& traffic, const WireOp& op);
  absl::Status CopyOwn(const Traffic& traffic, const WireOp& op);
  // Whose headers have not come; reads them from the device, after an abort.
  AwaitedPeers HeadersMissing(const Traffic& traffic);

  // nccl_collectives.cc: on device memory
  struct Floats {
    float* data = nullptr;
    size_t count = 0;
  };
  // data := the sum, everyone adding all parts.
  absl::Status GatherAndSum(const FabricGroup& group, Floats data, const WireOp& op);
  // out := the caller's part of the sum, each part being sent to its owner.
  absl::Status SumOwnPart(const FabricGroup& group, Floats data, float* out, const WireOp& op);
  // Everyone gets the parts that the others own.
  absl::Status GatherParts(const FabricGroup& group, Floats data, const WireOp& op);
  absl::Status AllReduceInTree(const FabricGroup& group, Floats data, const WireOp& op);
  absl::Status RunOn(const FabricGroup& group, const NcclWork& work, const WireOp& op);
  // Waits until the stream is done, after `then`.
  absl::Status Flush(std::function<absl::Status()> then, const WireOp& op);
  absl::Status CopySpan(absl::Span<const uint8_t> from, uint8_t* to, const WireOp& op);

  const std::shared_ptr<const NcclApi> api_;
  const std::unique_ptr<NcclDevice> device_;
  const int rank_;
  const int size_;
  const NcclFabricOptions options_;
  const std::unique_ptr<NcclCancel> cancel_ = std::make_unique<NcclCancel>();
  absl::Status dead_;
  FabricCounters counters_;
  NcclStager stager_;
  NcclMemory rows_;
  NcclMemory window_;
  NcclWindow window_handle_ = nullptr;
  absl::Span<uint8_t> window_span_;
  std::vector<uint64_t> sent_;      // [size] exchanges in which something went to the peer
  std::vector<uint64_t> received_;  // [size] exchanges in which something was due from it
  std::unique_ptr<NcclCommunicator> world_;
  std::map<std::vector<int>, std::unique_ptr<NcclCommunicator>> groups_;  // by ranks
};

}  // namespace conclave
