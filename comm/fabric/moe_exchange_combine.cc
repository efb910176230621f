// The combine of MoeExchange: the rounds of the dispatch backwards, then the tp gather.
#include <algorithm>
#include <cstring>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "comm/fabric/moe_exchange.h"
#include "comm/fabric/moe_exchange_layer.h"
#include "glog/logging.h"

namespace conclave {

bool MoeExchange::Alone(const Layer& layer) const {
  const ExchangePeers& peers = layer.schedule.peers();
  const ExchangePeers& handing = layer.schedule.hand_on_peers();
  const bool gathers = options_.kind != ExchangeKind::kNaive && options_.spec.tp > 1;
  return peers.send_to.empty() && peers.recv_from.empty() && handing.send_to.empty() &&
         handing.recv_from.empty() && !gathers && format_.exact();
}

absl::StatusOr<CombinedParts> MoeExchange::Combine(RowsView computed) {
  CHECK_GE(layer_, 0) << "Combine without Dispatch";
  CHECK_EQ(computed.rows, static_cast<int64_t>(inbox_.slot_of_entry().size()));
  const Layer& layer = LayerAt(layer_);
  stats_.exchanges += 1;
  // Nobody else: the parts are what was computed, in the same order.
  if (Alone(layer)) return CombinedParts{computed, part_row_};
  if (two_level()) RETURN_IF_ERROR(HandBack(computed));
  const int64_t count = holder_begin_.back();
  uint8_t* parts = parts_buffer_.Bytes(count * format_.bytes()).data();
  RETURN_IF_ERROR(ReturnAnswers(computed, parts));
  if (two_level() && options_.spec.tp > 1) return CombineAtHome(layer, parts);
  if (options_.kind == ExchangeKind::kPcc) RETURN_IF_ERROR(GatherRows(parts, holder_begin_));
  return CombinedParts{{Decoded(parts, count, decoded_parts_buffer_), count, options_.hidden},
                       part_row_};
}

// Fills sends_ with the answers to the messages of a round of the dispatch.
void MoeExchange::MakeAnswers(RowsView computed, int round) {
  const int64_t row_bytes = format_.bytes();
  // Rows lie as they travel: they need not be copied.
  const bool ready = format_.exact() && computed.stride == options_.hidden;
  int64_t bytes = 0;
  for (const ExchangeInbox::Message& message : inbox_.messages(round)) {
    if (message.stage_rank == stage_rank_ || (ready && message.first_entry >= 0)) continue;
    bytes += AlignMessage((message.end - message.begin) * row_bytes);
  }
  const absl::Span<uint8_t> buffer = send_buffer_.Bytes(bytes);
  sends_.clear();
  size_t at = 0;
  for (const ExchangeInbox::Message& message : inbox_.messages(round)) {
    if (message.stage_rank == stage_rank_) continue;
    const int64_t size = (message.end - message.begin) * row_bytes;
    const int peer = FabricRank(message.stage_rank);
    if (ready && message.first_entry >= 0) {
      const float* rows = computed.row(message.first_entry);
      sends_.push_back({peer, {reinterpret_cast<const uint8_t*>(rows), static_cast<size_t>(size)}});
      continue;
    }
    uint8_t* row = buffer.data() + at;
    for (const ExchangeInbox::Answer& answer : inbox_.answers(message)) {
      if (answer.hop < 0) {
        EncodeRow(format_, computed.row(answer.index), row);
      } else {
        const int64_t from = handed_begin_[answer.hop] + answer.index;
        std::memcpy(row, handed_buffer_.data() + from * row_bytes, row_bytes);
      }
      row += row_bytes;
    }
    sends_.push_back({peer, buffer.subspan(at, size)});
    at += AlignMessage(size);
  }
}

absl::Status MoeExchange::RunCombine(const char* name) {
  const FabricCounters before = fabric_.counters();
  RETURN_IF_ERROR(fabric_.Exchange(sends_, absl::MakeSpan(recvs_), Op(name)));
  CountSent(before, sends_.size());
  for (const RecvBuffer& recv : recvs_) {
    const int64_t entries = static_cast<int64_t>(recv.bytes.size()) / format_.bytes();
    const absl::Status status = CheckCombine(static_cast<int64_t>(recv.received), entries, format_);
    if (!status.ok()) {
      return WithContext(status, absl::StrFormat("rank %d: %s of layer %d, from rank %d",
                                                 fabric_.rank(), name, layer_, recv.peer));
    }
  }
  return absl::OkStatus();
}

// Owners answer what leaders handed on to them.
absl::Status MoeExchange::HandBack(RowsView computed) {
  handed_begin_.clear();
  int64_t next = 0;
  for (const DispatchToPeer& to : inbox_.handed_on()) {
    handed_begin_.push_back(next);
    next += EntriesOf(to);
  }
  if (inbox_.messages(1).empty() && handed_begin_.empty()) return absl::OkStatus();
  const absl::Span<uint8_t> buffer = handed_buffer_.Bytes(next * format_.bytes());
  MakeAnswers(computed, 1);
  recvs_.clear();
  for (size_t i = 0; i < handed_begin_.size(); ++i) {
    const DispatchToPeer& to = inbox_.handed_on()[i];
    recvs_.push_back({FabricRank(to.stage_rank), buffer.subspan(handed_begin_[i] * format_.bytes(),
                                                                EntriesOf(to) * format_.bytes())});
  }
  return RunCombine("moe_hand_back");
}

// Answers what came first hand, and takes the answers to what this rank sent.
absl::Status MoeExchange::ReturnAnswers(RowsView computed, uint8_t* parts) {
  const int64_t row_bytes = format_.bytes();
  MakeAnswers(computed, 0);
  recvs_.clear();
  for (size_t i = 0; i < lists().size(); ++i) {
    const DispatchToPeer& to = lists()[i];
    if (!Mine(to)) continue;
    uint8_t* at = parts + part_begin_[i] * row_bytes;
    if (to.stage_rank != stage_rank_) {
      recvs_.push_back(
          {FabricRank(to.stage_rank), {at, static_cast<size_t>(EntriesOf(to) * row_bytes)}});
      continue;
    }
    for (const ExchangeInbox::Message& message : inbox_.messages(0)) {
      if (message.stage_rank != stage_rank_) continue;
      for (const ExchangeInbox::Answer& answer : inbox_.answers(message)) {
        EncodeRow(format_, computed.row(answer.index), at);
        at += row_bytes;
      }
    }
  }
  return RunCombine("moe_combine");
}

// Rows [begin[t], begin[t + 1]) come from rank t of the tp group.
absl::Status MoeExchange::GatherRows(uint8_t* rows, absl::Span<const int64_t> begin) {
  const int tp = options_.spec.tp;
  if (tp == 1 || tokens_ == 0) return absl::OkStatus();
  FabricGroup group;
  group.index = options_.position.tp;
  gather_.clear();
  for (int holder = 0; holder < tp; ++holder) {
    const GridPosition& own = options_.position;
    group.ranks.push_back(options_.spec.RankOf({own.pp, own.dp, holder}));
    const int64_t count = begin[holder + 1] - begin[holder];
    gather_.push_back({rows + begin[holder] * format_.bytes(),
                       static_cast<size_t>(CombineBytes(count, format_))});
  }
  const FabricCounters before = fabric_.counters();
  RETURN_IF_ERROR(fabric_.AllGatherV(group, gather_[group.index], gather_, Op("moe_gather")));
  stats_.gather_bytes += fabric_.counters().bytes_sent - before.bytes_sent;
  return absl::OkStatus();
}

// `count` rows as floats: themselves where they are floats.
const float* MoeExchange::Decoded(const uint8_t* rows, int64_t count, GrowBuffer& buffer) const {
  if (format_.exact()) return reinterpret_cast<const float*>(rows);
  float* decoded = buffer.Floats(count * options_.hidden);
  for (int64_t i = 0; i < count; ++i) {
    DecodeRow(format_, rows + i * format_.bytes(), decoded + i * options_.hidden);
  }
  return decoded;
}

// Adds up the parts of this rank's home tokens, and gathers the outputs of the others.
absl::StatusOr<CombinedParts> MoeExchange::CombineAtHome(const Layer& layer, const uint8_t* parts) {
  const int tp = options_.spec.tp;
  home_begin_.assign(1, 0);
  for (int t = 0; t < tp; ++t) {
    home_begin_.push_back(home_begin_.back() + layer.schedule.HomeTokens(t, tokens_));
  }
  uint8_t* outputs = outputs_buffer_.Bytes(tokens_ * format_.bytes()).data();
  const int64_t own = home_begin_[options_.position.tp];
  const int64_t home_tokens = home_begin_[options_.position.tp + 1] - own;
  uint8_t* own_outputs = outputs + own * format_.bytes();
  PartsToCombine args;
  args.parts = Decoded(parts, holder_begin_.back(), decoded_parts_buffer_);
  args.hidden = options_.hidden;
  args.part_row = part_row_;
  args.weights = home_weights_;
  args.top_k = options_.top_k;
  args.slices = layer.slices;
  args.out = format_.exact() ? reinterpret_cast<float*>(own_outputs)
                             : home_buffer_.Floats(home_tokens * options_.hidden);
  if (home_tokens > 0) {
    if (options_.combine) {
      options_.combine(args);
    } else {
      CombineParts(args);
    }
  }
  for (int64_t i = 0; i < home_tokens && !format_.exact(); ++i) {
    EncodeRow(format_, args.out + i * options_.hidden, own_outputs + i * format_.bytes());
  }
  RETURN_IF_ERROR(GatherRows(outputs, home_begin_));
  output_row_.resize(tokens_);
  for (int64_t i = 0; i < tokens_; ++i) {
    output_row_[i] = static_cast<int32_t>(home_begin_[i % tp] + i / tp);
  }
  return CombinedParts{
      {Decoded(outputs, tokens_, decoded_outputs_buffer_), tokens_, options_.hidden},
      output_row_,
      true};
}

}  // namespace conclave
