#include "comm/fabric/moe_exchange.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Messages start at multiples of this in the buffers.
int64_t Align(int64_t bytes) {
  constexpr int64_t kAlignment = 64;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t Entries(const DispatchToPeer& to) { return static_cast<int64_t>(to.entries.size()); }
int64_t Rows(const DispatchToPeer& to) { return static_cast<int64_t>(to.tokens.size()); }

void CopyRow(const float* from, float* to, int hidden) {
  std::memcpy(to, from, hidden * sizeof(float));
}

}  // namespace

struct MoeExchange::Layer {
  Layer(const MoeExchangeOptions& options, const LayerExperts& experts, int stage_rank)
      : schedule(options.kind, options.spec, experts, stage_rank),
        naive(ExchangeKind::kNaive, options.spec, experts, stage_rank),
        slices(experts.slices()),
        experts(experts.experts()),
        slots(static_cast<int>(experts.UnitsOf(stage_rank).size())) {}

  const ExchangeSchedule schedule;
  const ExchangeSchedule naive;
  const int slices;
  const int experts;
  const int slots;  // units of the caller
};

MoeExchange::MoeExchange(Fabric& fabric, const ExpertMap& experts,
                         const MoeExchangeOptions& options)
    : fabric_(fabric),
      experts_(experts),
      options_(options),
      stage_rank_(options.spec.StageRankOf(options.position)) {
  CHECK_GT(options.hidden, 0);
  CHECK_GT(options.top_k, 0);
  CHECK_EQ(fabric.rank(), options.spec.RankOf(options.position));
  layers_.resize(experts_.layers.size());
}

MoeExchange::~MoeExchange() = default;

MoeExchange::Layer& MoeExchange::LayerAt(int layer) {
  CHECK(layer >= 0 && layer < static_cast<int>(layers_.size())) << "no such layer: " << layer;
  std::unique_ptr<Layer>& known = layers_[layer];
  if (known == nullptr) {
    known = std::make_unique<Layer>(options_, experts_.layers[layer], stage_rank_);
  }
  return *known;
}

int MoeExchange::FabricRank(int stage_rank) const {
  return options_.spec.RankOf({options_.position.pp, 0, 0}) + stage_rank;
}

FabricOp MoeExchange::Op(const char* name) const { return {name, layer_, options_.timeout}; }

bool MoeExchange::Mine(const DispatchToPeer& to) const {
  return options_.kind == ExchangeKind::kNaive ||
         to.stage_rank % options_.spec.tp == options_.position.tp;
}

absl::Status MoeExchange::CheckInput(const DispatchInput& input, const Layer& layer) const {
  const int64_t tokens = input.tokens.rows;
  if (static_cast<int>(input.tokens_by_dp.size()) != options_.spec.dp) {
    return absl::InvalidArgumentError(
        absl::StrFormat("MoE dispatch: tokens_by_dp has %d entries for dp=%d; give one per group",
                        input.tokens_by_dp.size(), options_.spec.dp));
  }
  if (input.tokens_by_dp[options_.position.dp] != tokens ||
      static_cast<int64_t>(input.experts.size()) != tokens * options_.top_k) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "MoE dispatch: %d rows, %d experts chosen, %d tokens planned for dp group %d; they must "
        "be the same tokens with top_k=%d",
        tokens, input.experts.size(), input.tokens_by_dp[options_.position.dp],
        options_.position.dp, options_.top_k));
  }
  for (const int32_t expert : input.experts) {
    if (expert >= 0 && expert < layer.experts) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "MoE dispatch: expert %d chosen of %d in layer %d", expert, layer.experts, input.layer));
  }
  return absl::OkStatus();
}

absl::StatusOr<DispatchedEntries> MoeExchange::Dispatch(const DispatchInput& input) {
  const Layer& layer = LayerAt(input.layer);
  layer_ = input.layer;
  tokens_ = input.tokens.rows;
  RETURN_IF_ERROR(CheckInput(input, layer));
  layer.naive.DispatchInto(input.experts, options_.top_k, all_);
  RETURN_IF_ERROR(ExchangeDispatch(layer, input));
  RETURN_IF_ERROR(CollectEntries(layer, input));
  PlaceParts(layer);
  CountNaive(layer);
  return DispatchedEntries{rows_, row_of_entry_, slot_of_entry_};
}

absl::Status MoeExchange::ExchangeDispatch(const Layer& layer, const DispatchInput& input) {
  const TokenRows rows = {input.tokens.data, input.tokens.rows, options_.hidden,
                          input.tokens.stride};
  int64_t send_bytes = 0;
  for (const DispatchToPeer& to : all_) {
    if (!Mine(to) || to.stage_rank == stage_rank_) continue;
    send_bytes += Align(DispatchBytes(Rows(to), Entries(to), options_.hidden));
  }
  const absl::Span<uint8_t> send = send_buffer_.Bytes(send_bytes);
  sends_.clear();
  size_t at = 0;
  for (const DispatchToPeer& to : all_) {
    if (!Mine(to) || to.stage_rank == stage_rank_) continue;
    const int64_t size = EncodeDispatch(to, rows, send.subspan(at));
    sends_.push_back({FabricRank(to.stage_rank), send.subspan(at, size)});
    at += Align(size);
  }
  const auto bound = [&](int stage_rank) {
    const int64_t tokens = input.tokens_by_dp[stage_rank / options_.spec.tp];
    return DispatchBytes(tokens, tokens * options_.top_k * layer.slices, options_.hidden);
  };
  int64_t recv_bytes = 0;
  for (const int from : layer.schedule.peers().recv_from) recv_bytes += Align(bound(from));
  const absl::Span<uint8_t> recv = recv_buffer_.Bytes(recv_bytes);
  recvs_.clear();
  at = 0;
  for (const int from : layer.schedule.peers().recv_from) {
    recvs_.push_back({FabricRank(from), recv.subspan(at, bound(from))});
    at += Align(bound(from));
  }
  const FabricCounters before = fabric_.counters();
  RETURN_IF_ERROR(fabric_.Exchange(sends_, absl::MakeSpan(recvs_), Op("moe_dispatch")));
  CountSent(before, sends_.size());
  return absl::OkStatus();
}

void MoeExchange::AddLocalEntries(const DispatchInput& input) {
  const int64_t begin = static_cast<int64_t>(slot_of_entry_.size());
  for (const DispatchToPeer& to : all_) {
    if (to.stage_rank != stage_rank_) continue;
    const bool alone = recvs_.empty();
    for (const ExchangeEntry& entry : to.entries) {
      slot_of_entry_.push_back(entry.slot);
      // Alone, the kernels read the caller's rows where they are.
      row_of_entry_.push_back(alone ? entry.token
                                    : static_cast<int32_t>(rows_received_ + entry.row));
    }
    if (alone) continue;
    float* at = const_cast<float*>(rows_.data) + rows_received_ * options_.hidden;
    for (const int32_t token : to.tokens) {
      CopyRow(input.tokens.row(token), at, options_.hidden);
      at += options_.hidden;
    }
    rows_received_ += Rows(to);
  }
  sources_.push_back({stage_rank_, begin, static_cast<int64_t>(slot_of_entry_.size())});
}

absl::Status MoeExchange::AddRemoteEntries(const RecvBuffer& recv, const Layer& layer,
                                           const DispatchInput& input, int stage_rank) {
  DispatchLimits limits;
  limits.rows_max = input.tokens_by_dp[stage_rank / options_.spec.tp];
  limits.entries_max = limits.rows_max * options_.top_k * layer.slices;
  limits.slots = layer.slots;
  limits.hidden = options_.hidden;
  auto view = ParseDispatch(recv.bytes.first(recv.received), limits);
  if (!view.ok()) {
    return WithContext(view.status(), absl::StrCat("layer ", layer_, ", from rank ", recv.peer));
  }
  const int64_t begin = static_cast<int64_t>(slot_of_entry_.size());
  for (const WireEntry& entry : view->entries) {
    slot_of_entry_.push_back(entry.slot);
    row_of_entry_.push_back(static_cast<int32_t>(rows_received_ + entry.row));
  }
  std::memcpy(const_cast<float*>(rows_.data) + rows_received_ * options_.hidden, view->rows,
              view->row_count * options_.hidden * sizeof(float));
  rows_received_ += view->row_count;
  sources_.push_back({stage_rank, begin, static_cast<int64_t>(slot_of_entry_.size())});
  return absl::OkStatus();
}

absl::Status MoeExchange::CollectEntries(const Layer& layer, const DispatchInput& input) {
  sources_.clear();
  slot_of_entry_.clear();
  row_of_entry_.clear();
  rows_received_ = 0;
  if (recvs_.empty()) {
    AddLocalEntries(input);
    rows_ = input.tokens;
    return absl::OkStatus();
  }
  int64_t rows_max = tokens_;
  for (const RecvBuffer& recv : recvs_) {
    rows_max += static_cast<int64_t>(recv.received / (options_.hidden * sizeof(float)));
  }
  rows_ = {rows_buffer_.Floats(rows_max * options_.hidden), 0, options_.hidden};
  const std::vector<int>& from = layer.schedule.peers().recv_from;
  size_t i = 0;
  for (; i < from.size() && from[i] < stage_rank_; ++i) {
    RETURN_IF_ERROR(AddRemoteEntries(recvs_[i], layer, input, from[i]));
  }
  AddLocalEntries(input);
  for (; i < from.size(); ++i) {
    RETURN_IF_ERROR(AddRemoteEntries(recvs_[i], layer, input, from[i]));
  }
  rows_.rows = rows_received_;
  return absl::OkStatus();
}

void MoeExchange::PlaceParts(const Layer& layer) {
  // Parts lie by the tp index that holds them, then by destination, then in entry order: every rank
  // of the tp group knows this order from the routing alone.
  const int tp = options_.spec.tp;
  const bool pcc = options_.kind == ExchangeKind::kPcc;
  part_begin_.resize(all_.size());
  holder_begin_.assign(tp + 1, 0);
  int64_t next = 0;
  for (int holder = 0; holder < (pcc ? tp : 1); ++holder) {
    holder_begin_[holder] = next;
    for (size_t i = 0; i < all_.size(); ++i) {
      if (pcc && all_[i].stage_rank % tp != holder) continue;
      part_begin_[i] = next;
      next += Entries(all_[i]);
    }
  }
  std::fill(holder_begin_.begin() + (pcc ? tp : 1), holder_begin_.end(), next);
  part_row_.resize(tokens_ * options_.top_k * layer.slices);
  for (size_t i = 0; i < all_.size(); ++i) {
    int64_t row = part_begin_[i];
    for (const ExchangeEntry& entry : all_[i].entries) {
      const int64_t choice = static_cast<int64_t>(entry.token) * options_.top_k + entry.choice;
      part_row_[choice * layer.slices + entry.slice] = static_cast<int32_t>(row++);
    }
  }
}

absl::StatusOr<CombinedParts> MoeExchange::Combine(RowsView computed) {
  CHECK_GE(layer_, 0) << "Combine without Dispatch";
  CHECK_EQ(computed.rows, static_cast<int64_t>(slot_of_entry_.size()));
  const Layer& layer = LayerAt(layer_);
  const ExchangePeers& peers = layer.schedule.peers();
  const bool gathers = options_.kind == ExchangeKind::kPcc && options_.spec.tp > 1;
  if (peers.send_to.empty() && peers.recv_from.empty() && !gathers) {
    // Nobody else: the parts are what was computed, in the same order.
    stats_.exchanges += 1;
    return CombinedParts{computed, part_row_};
  }
  const int64_t parts = holder_begin_.back();
  float* data = parts_buffer_.Floats(parts * options_.hidden);
  RETURN_IF_ERROR(ExchangeCombine(layer, computed, data));
  if (gathers && tokens_ > 0) RETURN_IF_ERROR(GatherParts(data));
  return CombinedParts{{data, parts, options_.hidden}, part_row_};
}

absl::Status MoeExchange::ExchangeCombine(const Layer& layer, RowsView computed, float* parts) {
  const int64_t hidden = options_.hidden;
  const bool packed = computed.stride == hidden;
  float* pack = packed ? nullptr : pack_buffer_.Floats(computed.rows * hidden);
  sends_.clear();
  recvs_.clear();
  for (const Source& source : sources_) {
    if (source.stage_rank == stage_rank_) continue;
    const float* rows = computed.row(source.begin);
    if (!packed) {
      for (int64_t e = source.begin; e < source.end; ++e) {
        CopyRow(computed.row(e), pack + e * hidden, options_.hidden);
      }
      rows = pack + source.begin * hidden;
    }
    const int64_t bytes = CombineBytes(source.end - source.begin, options_.hidden);
    sends_.push_back({FabricRank(source.stage_rank),
                      {reinterpret_cast<const uint8_t*>(rows), static_cast<size_t>(bytes)}});
  }
  for (size_t i = 0; i < all_.size(); ++i) {
    const DispatchToPeer& to = all_[i];
    if (!Mine(to)) continue;
    float* at = parts + part_begin_[i] * hidden;
    if (to.stage_rank != stage_rank_) {
      const int64_t bytes = CombineBytes(Entries(to), options_.hidden);
      recvs_.push_back({FabricRank(to.stage_rank),
                        {reinterpret_cast<uint8_t*>(at), static_cast<size_t>(bytes)}});
      continue;
    }
    for (const Source& source : sources_) {
      if (source.stage_rank != stage_rank_) continue;
      for (int64_t e = source.begin; e < source.end; ++e, at += hidden) {
        CopyRow(computed.row(e), at, options_.hidden);
      }
    }
  }
  const FabricCounters before = fabric_.counters();
  RETURN_IF_ERROR(fabric_.Exchange(sends_, absl::MakeSpan(recvs_), Op("moe_combine")));
  CountSent(before, sends_.size());
  for (const RecvBuffer& recv : recvs_) {
    const int64_t entries = static_cast<int64_t>(recv.bytes.size()) / CombineBytes(1, hidden);
    RETURN_IF_ERROR(WithContext(
        CheckCombine(static_cast<int64_t>(recv.received), entries, options_.hidden),
        absl::StrCat("layer ", layer.experts > 0 ? layer_ : -1, ", from rank ", recv.peer)));
  }
  return absl::OkStatus();
}

absl::Status MoeExchange::GatherParts(float* parts) {
  const int tp = options_.spec.tp;
  FabricGroup group;
  group.index = options_.position.tp;
  gather_.clear();
  for (int holder = 0; holder < tp; ++holder) {
    const GridPosition& own = options_.position;
    group.ranks.push_back(options_.spec.RankOf({own.pp, own.dp, holder}));
    const int64_t begin = holder_begin_[holder], end = holder_begin_[holder + 1];
    gather_.push_back({reinterpret_cast<uint8_t*>(parts + begin * options_.hidden),
                       static_cast<size_t>(CombineBytes(end - begin, options_.hidden))});
  }
  const FabricCounters before = fabric_.counters();
  RETURN_IF_ERROR(fabric_.AllGatherV(group, gather_[group.index], gather_, Op("moe_gather")));
  stats_.gather_bytes += fabric_.counters().bytes_sent - before.bytes_sent;
  return absl::OkStatus();
}

void MoeExchange::CountSent(const FabricCounters& before, size_t peers) {
  const FabricCounters now = fabric_.counters();
  stats_.exchanges += 1;
  stats_.peers_max = std::max(stats_.peers_max, static_cast<int64_t>(peers));
  stats_.messages += now.messages_sent - before.messages_sent;
  stats_.bytes += now.bytes_sent - before.bytes_sent;
}

void MoeExchange::CountNaive(const Layer& layer) {
  const ExchangePeers& peers = layer.naive.peers();
  const int64_t most = static_cast<int64_t>(std::max(peers.send_to.size(), peers.recv_from.size()));
  stats_.naive_peers_max = std::max(stats_.naive_peers_max, most);
  stats_.naive_messages += static_cast<int64_t>(peers.send_to.size() + peers.recv_from.size());
  for (const DispatchToPeer& to : all_) {
    if (to.stage_rank == stage_rank_) continue;
    stats_.naive_bytes += DispatchBytes(Rows(to), Entries(to), options_.hidden);
  }
  // Each of the tp ranks of a dp group would ask for the entries that one asks for under PCC.
  const int64_t tp = options_.kind == ExchangeKind::kPcc ? options_.spec.tp : 1;
  for (const Source& source : sources_) {
    const int64_t askers = source.stage_rank == stage_rank_ ? tp - 1 : tp;
    stats_.naive_bytes += askers * CombineBytes(source.end - source.begin, options_.hidden);
  }
}

ExchangeStats MoeExchange::TakeStats() { return std::exchange(stats_, ExchangeStats()); }

size_t MoeExchange::BufferBytes() const {
  return send_buffer_.capacity() + recv_buffer_.capacity() + rows_buffer_.capacity() +
         pack_buffer_.capacity() + parts_buffer_.capacity() +
         (row_of_entry_.capacity() + slot_of_entry_.capacity() + part_row_.capacity()) *
             sizeof(int32_t);
}

}  // namespace conclave
