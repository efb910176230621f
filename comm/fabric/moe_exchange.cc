#include "comm/fabric/moe_exchange.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"
#include "comm/fabric/moe_exchange_layer.h"
#include "glog/logging.h"

namespace conclave {

MoeExchange::MoeExchange(Fabric& fabric, const ExpertMap& experts,
                         const MoeExchangeOptions& options)
    : fabric_(fabric),
      experts_(experts),
      options_(options),
      stage_rank_(options.spec.StageRankOf(options.position)),
      // A stage of one rank exchanges nothing: there is nothing to round.
      format_(options.hidden, options.spec.StageSize() > 1 ? options.payload : PayloadFormat::kF32),
      inbox_(format_) {
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
  return options_.kind != ExchangeKind::kPcc ||
         to.stage_rank % options_.spec.tp == options_.position.tp;
}

absl::Status MoeExchange::CheckInput(const DispatchInput& input, const Layer& layer) const {
  const int64_t tokens = input.tokens.rows;
  const int64_t choices = tokens * options_.top_k;
  if (static_cast<int>(input.tokens_by_dp.size()) != options_.spec.dp) {
    return absl::InvalidArgumentError(
        absl::StrFormat("MoE dispatch: tokens_by_dp has %d entries for dp=%d; give one per group",
                        input.tokens_by_dp.size(), options_.spec.dp));
  }
  if (input.tokens_by_dp[options_.position.dp] != tokens ||
      static_cast<int64_t>(input.experts.size()) != choices) {
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
  if (two_level() && options_.spec.tp > 1 &&
      static_cast<int64_t>(input.weights.size()) != choices) {
    return absl::InvalidArgumentError(
        absl::StrFormat("MoE dispatch: %d weights for %d choices; the two-level exchange combines "
                        "with the weight of each",
                        input.weights.size(), choices));
  }
  return absl::OkStatus();
}

void MoeExchange::CountSent(const FabricCounters& before, size_t peers) {
  const FabricCounters now = fabric_.counters();
  stats_.peers_max = std::max(stats_.peers_max, static_cast<int64_t>(peers));
  stats_.messages += now.messages_sent - before.messages_sent;
  stats_.bytes += now.bytes_sent - before.bytes_sent;
}

void MoeExchange::CountNaive(const Layer& layer) {
  const ExchangePeers& peers = layer.naive.peers();
  const int64_t most = static_cast<int64_t>(std::max(peers.send_to.size(), peers.recv_from.size()));
  stats_.naive_peers_max = std::max(stats_.naive_peers_max, most);
  stats_.naive_messages += static_cast<int64_t>(peers.send_to.size() + peers.recv_from.size());
  int64_t own_entries = 0;
  for (const DispatchToPeer& to : all_) {
    if (to.stage_rank == stage_rank_) {
      own_entries = EntriesOf(to);
      continue;
    }
    stats_.naive_bytes +=
        DispatchBytes(static_cast<int64_t>(to.tokens.size()), EntriesOf(to), format_);
  }
  // Each of the tp ranks of a dp group would ask for the entries that one asks for otherwise; what
  // this rank would ask of itself does not travel.
  const int64_t askers = options_.kind == ExchangeKind::kNaive ? 1 : options_.spec.tp;
  const int64_t entries = static_cast<int64_t>(inbox_.slot_of_entry().size());
  stats_.naive_bytes += CombineBytes(askers * entries - own_entries, format_);
}

ExchangeStats MoeExchange::TakeStats() { return std::exchange(stats_, ExchangeStats()); }

size_t MoeExchange::BufferBytes() const {
  size_t bytes = inbox_.BufferBytes();
  for (const GrowBuffer* buffer :
       {&token_buffer_, &send_buffer_, &recv_buffers_[0], &recv_buffers_[1], &handed_buffer_,
        &parts_buffer_, &decoded_parts_buffer_, &outputs_buffer_, &decoded_outputs_buffer_,
        &home_buffer_}) {
    bytes += buffer->capacity();
  }
  for (const auto* lists : {&all_, &home_lists_}) {
    for (const DispatchToPeer& to : *lists) {
      bytes += to.tokens.capacity() * sizeof(int32_t);
      bytes += to.entries.capacity() * sizeof(ExchangeEntry);
    }
  }
  return bytes + (part_row_.capacity() + output_row_.capacity()) * sizeof(int32_t) +
         token_rows_.capacity() * sizeof(uint8_t*) + home_weights_.capacity() * sizeof(float);
}

}  // namespace conclave
