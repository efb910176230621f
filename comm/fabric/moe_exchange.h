// MoeExchange: carries out the ExchangeSchedule of a rank on its fabric: sends the rows of its
// tokens towards the owners of the chosen experts, receives those it serves (of a leader also those
// it hands on), and brings the results back, with the gather over the tp group that completes PCC
// and two-level. Owned by the engine, made once per epoch; the engine's thread uses it, one layer
// at a time: Dispatch, then Combine. What they return borrows its memory (or the caller's) until
// the next call of the same name. Buffers grow to the largest step and are reused.
//
// Rows in a rounded format (comm/exchange/payload.h) are rounded once each way, at the rank that
// has them, and also when they stay there: so all ranks of a tp group see the same bits, and naive
// and PCC, whoever owns what, give the same outputs. Two-level rounds the outputs once more for
// the gather.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/exchange/combine_parts.h"
#include "comm/exchange/exchange.h"
#include "comm/exchange/exchange_layout.h"
#include "comm/exchange/node_layout.h"
#include "comm/exchange/payload.h"
#include "comm/fabric/exchange_inbox.h"
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
  absl::Duration timeout = absl::Seconds(30);  // of each round of an exchange
  PayloadFormat payload = PayloadFormat::kF32;
  RankNodes nodes;               // [stage size] two-level: where the ranks are; empty: on one node
  CombinePartsFunction combine;  // two-level: null is CombineParts
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
  absl::Span<const float> weights;         // [tokens, top_k] of the gate; only two-level needs them
};

// What this rank computes: entry e is row row_of_entry[e] of `rows` through slot slot_of_entry[e].
struct DispatchedEntries {
  RowsView rows;                            // [rows, hidden]
  absl::Span<const int32_t> row_of_entry;   // [entries]
  absl::Span<const int32_t> slot_of_entry;  // [entries]
};

// The results for the caller's tokens. As they were computed: choice c, slice s of token t is
// parts.row(part_row[(t * top_k + c) * slices + s]); what CombineArgs of kernels/moe_permute takes.
// Or summed: parts.row(part_row[t]) is the layer's whole output for token t, gate weights applied.
struct CombinedParts {
  RowsView parts;                      // [parts, hidden]
  absl::Span<const int32_t> part_row;  // [tokens, top_k, slices], or [tokens]
  bool summed = false;
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

  bool two_level() const { return options_.kind == ExchangeKind::kTwoLevel; }
  Layer& LayerAt(int layer);
  int FabricRank(int stage_rank) const;
  FabricOp Op(const char* name) const;
  absl::Status CheckInput(const DispatchInput& input, const Layer& layer) const;
  bool Mine(const DispatchToPeer& to) const;
  // What this rank sends in the first round, its own part included; under PCC also, not Mine, what
  // the others of its tp group send.
  const std::vector<DispatchToPeer>& lists() const { return two_level() ? home_lists_ : all_; }

  // moe_exchange_dispatch.cc
  void FindRows(const DispatchInput& input);
  void MakeSends(absl::Span<const DispatchToPeer> lists, absl::Span<const uint8_t* const> rows);
  DispatchLimits LimitsOf(const Layer& layer, const DispatchInput& input, int round,
                          int from) const;
  absl::Status RunRound(const Layer& layer, const DispatchInput& input, int round);
  void AddOwn();
  void PlaceParts(const Layer& layer);

  // moe_exchange_combine.cc
  bool Alone(const Layer& layer) const;
  void MakeAnswers(RowsView computed, int round);
  absl::Status HandBack(RowsView computed);
  absl::Status ReturnAnswers(RowsView computed, uint8_t* parts);
  absl::Status RunCombine(const char* name);
  absl::Status GatherRows(uint8_t* rows, absl::Span<const int64_t> begin);
  const float* Decoded(const uint8_t* rows, int64_t count, GrowBuffer& buffer) const;
  absl::StatusOr<CombinedParts> CombineAtHome(const Layer& layer, const uint8_t* parts);

  void CountNaive(const Layer& layer);
  void CountSent(const FabricCounters& before, size_t peers);

  Fabric& fabric_;
  const ExpertMap experts_;
  const MoeExchangeOptions options_;
  const int stage_rank_;
  const RowFormat format_;
  std::vector<std::unique_ptr<Layer>> layers_;
  ExchangeStats stats_;

  // Of the exchange under way.
  int layer_ = -1;
  int64_t tokens_ = 0;
  bool in_place_ = false;  // the kernels read the caller's rows where they are
  // To every owner, as the naive schedule would send; under PCC this rank carries out those of its
  // own tp index, and the others tell what its tp group will hold.
  std::vector<DispatchToPeer> all_;
  std::vector<DispatchToPeer> home_lists_;  // two-level
  std::vector<const uint8_t*> token_rows_;  // [tokens] in the format
  std::vector<float> home_weights_;         // two-level: [home tokens, top_k]
  std::vector<SendBuffer> sends_;
  std::vector<RecvBuffer> recvs_;
  ExchangeInbox inbox_;
  std::vector<int64_t> part_begin_;    // [lists().size()] first part row of each destination
  std::vector<int64_t> holder_begin_;  // [tp + 1] part rows, by the tp index that holds them
  std::vector<int32_t> part_row_;
  std::vector<int64_t> handed_begin_;  // [handed_on] first answer of each owner of this node
  std::vector<int64_t> home_begin_;    // [tp + 1] two-level: outputs, by the tp index of their home
  std::vector<int32_t> output_row_;    // [tokens] likewise
  std::vector<absl::Span<uint8_t>> gather_;
  GrowBuffer token_buffer_, send_buffer_, recv_buffers_[2], handed_buffer_;
  // Parts, and outputs of two-level: as they travel, and decoded; without rounding only the former.
  GrowBuffer parts_buffer_, decoded_parts_buffer_, outputs_buffer_, decoded_outputs_buffer_;
  GrowBuffer home_buffer_;
};

}  // namespace conclave
