// P2pFabric: the collectives of Fabric over a PointToPoint transport.
//
// all_reduce: every rank gathers all parts and sums them itself in the fixed tree when the payload
// is small (one round, which is what latency is made of); otherwise each rank sums the part of its
// index and the parts are gathered (two rounds, 2 (n - 1) / n of the payload). Both add each
// element in the tree of comm/base/reduction.h over the group's index; for sizes that are no power
// of two it is TreeSum's left-complete tree. all_gather and reduce_scatter: one round; broadcast: a
// binomial tree. Scratch memory grows to the largest call and is reused.
#pragma once

#include <memory>
#include <vector>

#include "comm/fabric/fabric.h"
#include "comm/fabric/grow_buffer.h"
#include "comm/fabric/point_to_point.h"

namespace conclave {

class P2pFabric final : public Fabric {
 public:
  // Payloads of all_reduce up to this many bytes take one round.
  static constexpr size_t kOneRoundBytesMax = 16 << 10;

  explicit P2pFabric(std::unique_ptr<PointToPoint> transport);

  int rank() const override { return transport_->rank(); }
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
  void Cancel(absl::Status reason) override { transport_->Cancel(std::move(reason)); }
  FabricCounters counters() const override { return transport_->counters(); }

 private:
  void CheckGroup(const FabricGroup& group) const;
  absl::Status ExchangeWithSelf(absl::Span<const SendBuffer> sends, absl::Span<RecvBuffer> recvs,
                                const WireOp& op);
  // The transport's Exchange of sends_ and recvs_, whose received sizes must fill their buffers.
  absl::Status ExchangeFull(const WireOp& op);
  absl::Status Gather(const FabricGroup& group, absl::Span<const uint8_t> part,
                      absl::Span<const absl::Span<uint8_t>> out, const WireOp& op);
  // out := the caller's part of the sum, each member sending its part of `data` to its owner.
  absl::Status SumOwnPart(const FabricGroup& group, absl::Span<const float> data,
                          absl::Span<float> out, const WireOp& op);
  absl::Status GatherAndSum(const FabricGroup& group, absl::Span<float> data, const WireOp& op);
  // rows_ [n] of `count` floats each -> out, in the tree; overwrites the rows.
  void TreeSumRows(size_t count, float* out);

  std::unique_ptr<PointToPoint> transport_;
  GrowBuffer scratch_;
  std::vector<SendBuffer> sends_;
  std::vector<RecvBuffer> recvs_;
  std::vector<float*> rows_;
  std::vector<absl::Span<uint8_t>> parts_;
};

}  // namespace conclave
