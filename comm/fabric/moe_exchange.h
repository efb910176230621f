// MoeExchange: carries out the ExchangeSchedule of a rank on its fabric: sends the rows of its
// tokens to the owners of the chosen experts, receives those it serves, and brings the results
// back, for PCC with the gather over the tp group that completes it. Owned by the engine, made once
// per epoch; the engine's thread uses it, one layer at a time: Dispatch, then Combine. What they
// return borrows its memory (or the caller's) until the next call of the same name. Buffers grow to
// the largest step and are reused.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/exchange/exchange.h"
#include "comm/exchange/exchange_layout.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/grow_buffer.h"
#include "comm/types/parallel_plan.h"
#include "comm/types/step_result.h"

namespace conclave {

struct MoeExchangeOptions {
  ExchangeKind kind = ExchangeKind::kPcc;
  ParallelSpec spec;
  GridPosition position;  // the caller's
  int hidden = 0;
  int top_k = 0;
  absl::Duration timeout = absl::Seconds(30);  // of each exchange
};

// fp32 rows: row i at data + i * stride.
struct RowsView {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t stride = 0;  // elements
  const float* row(int64_t i) const { return data + i * stride; }
};

struct DispatchInput {
  int layer = 0;
  RowsView tokens;                         // [tokens, hidden] of the caller's dp group
  absl::Span<const int32_t> experts;       // [tokens, top_k]
  absl::Span<const int32_t> tokens_by_dp;  // [dp] tokens of every dp group in this step
};

// What this rank computes: entry e is row row_of_entry[e] of `rows` through slot slot_of_entry[e].
struct DispatchedEntries {
  RowsView rows;                            // [rows, hidden]
  absl::Span<const int32_t> row_of_entry;   // [entries]
  absl::Span<const int32_t> slot_of_entry;  // [entries]
};

// The results for the caller's tokens: choice c, slice s of token t is
// parts.row(part_row[(t * top_k + c) * slices + s]); what CombineArgs of kernels/moe_permute takes.
struct CombinedParts {
  RowsView parts;                      // [parts, hidden]
  absl::Span<const int32_t> part_row;  // [tokens, top_k, slices]
};

class MoeExchange {
 public:
  // `experts` of every layer of the model; only those the caller dispatches are looked at. `fabric`
  // outlives this.
  MoeExchange(Fabric& fabric, const ExpertMap& experts, const MoeExchangeOptions& options);
  ~MoeExchange();

  // All ranks of the stage call it for the same layer. InvalidArgument when the input does not fit
  // together, or a peer sends what is not a dispatch message; else what Fabric returns.
  absl::StatusOr<DispatchedEntries> Dispatch(const DispatchInput& input);

  // computed: [entries, hidden] in the order of the last Dispatch.
  absl::StatusOr<CombinedParts> Combine(RowsView computed);

  // What was sent since the last TakeStats, as the fabric counted it.
  ExchangeStats TakeStats();

  // Bytes of memory held, to see that steps do not grow it.
  size_t BufferBytes() const;

 private:
  struct Layer;
  // The entries that one rank sent us: [begin, end) of the entries.
  struct Source {
    int stage_rank = 0;
    int64_t begin = 0;
    int64_t end = 0;
  };

  Layer& LayerAt(int layer);
  int FabricRank(int stage_rank) const;
  FabricOp Op(const char* name) const;
  absl::Status CheckInput(const DispatchInput& input, const Layer& layer) const;
  absl::Status ExchangeDispatch(const Layer& layer, const DispatchInput& input);
  absl::Status CollectEntries(const Layer& layer, const DispatchInput& input);
  void AddLocalEntries(const DispatchInput& input);
  absl::Status AddRemoteEntries(const RecvBuffer& recv, const Layer& layer,
                                const DispatchInput& input, int stage_rank);
  void PlaceParts(const Layer& layer);
  absl::Status ExchangeCombine(const Layer& layer, RowsView computed, float* parts);
  absl::Status GatherParts(float* parts);
  void CountNaive(const Layer& layer);
  void CountSent(const FabricCounters& before, size_t peers);
  bool Mine(const DispatchToPeer& to) const;

  Fabric& fabric_;
  const ExpertMap experts_;
  const MoeExchangeOptions options_;
  const int stage_rank_;
  std::vector<std::unique_ptr<Layer>> layers_;
  ExchangeStats stats_;

  // Of the exchange under way.
  int layer_ = -1;
  int64_t tokens_ = 0;
  // To every owner, as the naive schedule would send; under PCC this rank carries out those of its
  // own tp index, and the others tell what its tp group will hold.
  std::vector<DispatchToPeer> all_;
  std::vector<SendBuffer> sends_;
  std::vector<RecvBuffer> recvs_;
  std::vector<Source> sources_;
  std::vector<int32_t> row_of_entry_;
  std::vector<int32_t> slot_of_entry_;
  RowsView rows_;
  int64_t rows_received_ = 0;
  std::vector<int64_t> part_begin_;    // [all_.size()] first part row of each destination
  std::vector<int64_t> holder_begin_;  // [tp + 1] part rows, by the tp index that holds them
  std::vector<int32_t> part_row_;
  std::vector<absl::Span<uint8_t>> gather_;
  GrowBuffer send_buffer_, recv_buffer_, rows_buffer_, pack_buffer_, parts_buffer_;
};

}  // namespace conclave
