// The dispatch of MoeExchange: one round under naive and PCC, two under two-level.
#include <algorithm>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "comm/fabric/moe_exchange.h"
#include "comm/fabric/moe_exchange_layer.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr const char* kRoundNames[] = {"moe_dispatch", "moe_hand_on"};

}  // namespace

absl::StatusOr<DispatchedEntries> MoeExchange::Dispatch(const DispatchInput& input) {
  const Layer& layer = LayerAt(input.layer);
  layer_ = input.layer;
  tokens_ = input.tokens.rows;
  RETURN_IF_ERROR(CheckInput(input, layer));
  layer.naive.DispatchInto(input.experts, options_.top_k, all_);
  if (two_level()) layer.schedule.DispatchInto(input.experts, options_.top_k, home_lists_);
  inbox_.Clear(layer.schedule);
  in_place_ = layer.schedule.peers().recv_from.empty() &&
              layer.schedule.hand_on_peers().recv_from.empty() && format_.exact();
  FindRows(input);
  RETURN_IF_ERROR(RunRound(layer, input, 0));
  if (two_level()) RETURN_IF_ERROR(RunRound(layer, input, 1));
  PlaceParts(layer);
  CountNaive(layer);
  stats_.exchanges += 1;
  RowsView rows = input.tokens;
  if (!in_place_) {
    inbox_.DecodeRows();
    rows = {inbox_.rows(), inbox_.row_count(), options_.hidden};
  }
  return DispatchedEntries{rows, inbox_.row_of_entry(), inbox_.slot_of_entry()};
}

// The rows that this rank sends, as they travel; and the weights of their tokens.
void MoeExchange::FindRows(const DispatchInput& input) {
  const int step = two_level() ? options_.spec.tp : 1;
  const int first = two_level() ? options_.position.tp : 0;
  token_rows_.resize(tokens_);
  uint8_t* encoded =
      format_.exact() ? nullptr : token_buffer_.Bytes(tokens_ * format_.bytes()).data();
  home_weights_.clear();
  for (int64_t token = first; token < tokens_; token += step) {
    const float* row = input.tokens.row(token);
    token_rows_[token] = reinterpret_cast<const uint8_t*>(row);
    if (encoded != nullptr) {
      token_rows_[token] = encoded;
      EncodeRow(format_, row, encoded);
      encoded += format_.bytes();
    }
    if (!two_level() || input.weights.empty()) continue;
    const auto weights = input.weights.subspan(token * options_.top_k, options_.top_k);
    home_weights_.insert(home_weights_.end(), weights.begin(), weights.end());
  }
}

void MoeExchange::MakeSends(absl::Span<const DispatchToPeer> lists,
                            absl::Span<const uint8_t* const> rows) {
  const auto bytes_of = [&](const DispatchToPeer& to) {
    return DispatchBytes(static_cast<int64_t>(to.tokens.size()), EntriesOf(to), format_);
  };
  int64_t bytes = 0;
  for (const DispatchToPeer& to : lists) {
    if (Mine(to) && to.stage_rank != stage_rank_) bytes += AlignMessage(bytes_of(to));
  }
  const absl::Span<uint8_t> buffer = send_buffer_.Bytes(bytes);
  sends_.clear();
  size_t at = 0;
  for (const DispatchToPeer& to : lists) {
    if (!Mine(to) || to.stage_rank == stage_rank_) continue;
    const int64_t size = EncodeDispatch(to, rows, format_, buffer.subspan(at));
    sends_.push_back({FabricRank(to.stage_rank), buffer.subspan(at, size)});
    at += AlignMessage(size);
  }
}

DispatchLimits MoeExchange::LimitsOf(const Layer& layer, const DispatchInput& input, int round,
                                     int from) const {
  DispatchLimits limits;
  const int32_t tokens = input.tokens_by_dp[from / options_.spec.tp];
  limits.rows_max = round == 0 ? layer.schedule.HomeTokens(from, tokens)
                               : layer.schedule.HandedOnMax(from, input.tokens_by_dp);
  limits.entries_max = limits.rows_max * options_.top_k * layer.slices;
  limits.slots = layer.schedule.SpeaksOfCopies(from) ? layer.schedule.copies() : layer.slots;
  limits.format = format_;
  return limits;
}

void MoeExchange::AddOwn() {
  for (const DispatchToPeer& to : lists()) {
    if (to.stage_rank != stage_rank_) continue;
    if (in_place_) {
      inbox_.AddOwnInPlace(to);
    } else {
      inbox_.AddOwn(to, token_rows_);
    }
  }
}

absl::Status MoeExchange::RunRound(const Layer& layer, const DispatchInput& input, int round) {
  const ExchangePeers& peers = round == 0 ? layer.schedule.peers() : layer.schedule.hand_on_peers();
  if (round == 0) {
    MakeSends(lists(), token_rows_);
  } else {
    if (peers.send_to.empty() && peers.recv_from.empty()) return absl::OkStatus();
    MakeSends(inbox_.handed_on(), inbox_.handed_rows());
  }
  const auto bytes_max = [&](int from) {
    const DispatchLimits limits = LimitsOf(layer, input, round, from);
    return DispatchBytes(limits.rows_max, limits.entries_max, format_);
  };
  int64_t bytes = 0;
  for (const int from : peers.recv_from) bytes += AlignMessage(bytes_max(from));
  const absl::Span<uint8_t> buffer = recv_buffers_[round].Bytes(bytes);
  recvs_.clear();
  size_t at = 0;
  for (const int from : peers.recv_from) {
    recvs_.push_back({FabricRank(from), buffer.subspan(at, bytes_max(from))});
    at += AlignMessage(bytes_max(from));
  }
  const FabricCounters before = fabric_.counters();
  RETURN_IF_ERROR(fabric_.Exchange(sends_, absl::MakeSpan(recvs_), Op(kRoundNames[round])));
  CountSent(before, sends_.size());
  bool own_added = round > 0;  // among the others by rank
  for (size_t i = 0; i < peers.recv_from.size(); ++i) {
    const int from = peers.recv_from[i];
    if (!own_added && from > stage_rank_) {
      AddOwn();
      own_added = true;
    }
    auto view = ParseDispatch(recvs_[i].bytes.first(recvs_[i].received),
                              LimitsOf(layer, input, round, from));
    absl::Status status = view.status();
    if (status.ok()) status = inbox_.Add(from, round, *view);
    if (!status.ok()) {
      return WithContext(status,
                         absl::StrFormat("rank %d: %s of layer %d, from rank %d", fabric_.rank(),
                                         kRoundNames[round], layer_, recvs_[i].peer));
    }
  }
  if (!own_added) AddOwn();
  return absl::OkStatus();
}

// Parts lie by the tp index that holds them, then by destination, then in entry order: every rank
// of a PCC tp group knows this order from the routing alone.
void MoeExchange::PlaceParts(const Layer& layer) {
  const int tp = options_.spec.tp;
  const int holders = options_.kind == ExchangeKind::kPcc ? tp : 1;
  const std::vector<DispatchToPeer>& lists = this->lists();
  part_begin_.resize(lists.size());
  holder_begin_.assign(tp + 1, 0);
  int64_t next = 0;
  for (int holder = 0; holder < holders; ++holder) {
    holder_begin_[holder] = next;
    for (size_t i = 0; i < lists.size(); ++i) {
      if (holders > 1 && lists[i].stage_rank % tp != holder) continue;
      part_begin_[i] = next;
      next += EntriesOf(lists[i]);
    }
  }
  std::fill(holder_begin_.begin() + holders, holder_begin_.end(), next);
  const int step = two_level() ? tp : 1;  // home tokens count without gaps
  part_row_.resize(layer.schedule.HomeTokens(stage_rank_, tokens_) * options_.top_k * layer.slices);
  for (size_t i = 0; i < lists.size(); ++i) {
    int64_t row = part_begin_[i];
    for (const ExchangeEntry& entry : lists[i].entries) {
      const int64_t choice =
          static_cast<int64_t>(entry.token / step) * options_.top_k + entry.choice;
      part_row_[choice * layer.slices + entry.slice] = static_cast<int32_t>(row++);
    }
  }
}

}  // namespace conclave
