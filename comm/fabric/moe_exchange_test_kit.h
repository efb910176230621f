// For tests: cases of an MoE exchange (grid, nodes, expert map, routing, rows, weights), a run of
// one on fabrics, and its outputs by direct computation.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "comm/exchange/transfers.h"
#include "comm/fabric/moe_exchange.h"

namespace conclave {

struct MoeCase {
  ParallelSpec spec;
  RankNodes nodes;
  LayerExperts layer;
  ExchangeRouting routing;
  int hidden = 12;
  std::vector<std::vector<float>> rows_by_dp;     // [dp][tokens, hidden]
  std::vector<std::vector<float>> weights_by_dp;  // [dp][tokens, top_k]
  std::vector<int32_t> tokens_by_dp;
};

// A grid of `tp` x `dp` ranks on up to `nodes_max` nodes of any sizes, up to 3 copies of a unit,
// `slices` of an expert, at most `tokens_max` tokens in a dp group, often none or one.
struct MoeCaseOptions {
  int tp = 1;
  int dp = 1;
  int slices = 1;
  int nodes_max = 3;
  int tokens_max = 20;
  int hidden = 12;
};
MoeCase MakeMoeCase(const MoeCaseOptions& options, Rng& rng);

// The transfers of the case as MoeExchange runs it: empty messages listed, no sums on the way.
TransferOptions TransfersOf(const MoeCase& c, ExchangeKind kind, PayloadFormat payload);

MoeExchangeOptions ExchangeOptions(const MoeCase& c, ExchangeKind kind, PayloadFormat payload,
                                   int rank);

// Dispatch, experts and combine on one rank, and the sum over choices where the exchange has not
// summed: [tokens, hidden] of its dp group. Fails the test on an error.
std::vector<float> RunMoeCase(MoeExchange& exchange, const MoeCase& c, int rank);

// The same for dp group `dp` without an exchange; in a rounded format every row is rounded as
// moe_exchange.h says.
std::vector<float> DirectOutputs(const MoeCase& c, ExchangeKind kind, PayloadFormat payload,
                                 int dp);

// What a rank sends in Exchange, in order; hands all else on.
class RecordingFabric : public Fabric {
 public:
  struct Message {
    std::string name;
    int to = 0;
    int64_t bytes = 0;
  };

  explicit RecordingFabric(Fabric& fabric) : fabric_(fabric) {}
  const std::vector<Message>& messages() const { return messages_; }

  int rank() const override { return fabric_.rank(); }
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
  void Cancel(absl::Status reason) override;
  FabricCounters counters() const override { return fabric_.counters(); }

 private:
  Fabric& fabric_;
  std::vector<Message> messages_;
};

}  // namespace conclave
