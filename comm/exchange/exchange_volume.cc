#include "comm/exchange/exchange_volume.h"

#include <algorithm>

#include "glog/logging.h"

namespace conclave {

RankVolume ExchangeVolume::Total() const {
  RankVolume total;
  for (const RankVolume& rank : ranks) {
    total.peers = std::max(total.peers, rank.peers);
    total.messages += rank.messages;
    total.bytes += rank.bytes;
    total.rows += rank.rows;
    total.gather_bytes += rank.gather_bytes;
  }
  return total;
}

ExchangeVolume CountExchange(ExchangeKind kind, const ParallelSpec& spec, const LayerExperts& layer,
                             int hidden, const ExchangeRouting& routing) {
  CHECK(kind != ExchangeKind::kTwoLevel) << "BuildTransfers counts two-level exchanges";
  CHECK_EQ(static_cast<int>(routing.experts_by_dp.size()), spec.dp);
  ExchangeVolume volume;
  volume.ranks.resize(spec.StageSize());
  std::vector<DispatchToPeer> dispatch;
  for (int sender = 0; sender < spec.StageSize(); ++sender) {
    const ExchangeSchedule schedule(kind, spec, layer, sender);
    const ExchangePeers& peers = schedule.peers();
    RankVolume& own = volume.ranks[sender];
    own.peers = static_cast<int64_t>(std::max(peers.send_to.size(), peers.recv_from.size()));
    own.messages += static_cast<int64_t>(peers.send_to.size() + peers.recv_from.size());
    schedule.DispatchInto(routing.experts_by_dp[sender / spec.tp], routing.top_k, dispatch);
    int64_t held = 0;  // part rows this rank has after the combine
    for (const DispatchToPeer& to : dispatch) {
      const int64_t rows = static_cast<int64_t>(to.tokens.size());
      const int64_t entries = static_cast<int64_t>(to.entries.size());
      held += entries;
      if (to.stage_rank == sender) continue;
      own.rows += rows;
      own.bytes += DispatchBytes(rows, entries, hidden);
      volume.ranks[to.stage_rank].bytes += CombineBytes(entries, hidden);
    }
    if (kind == ExchangeKind::kPcc) {
      own.gather_bytes += (spec.tp - 1) * CombineBytes(held, hidden);
    }
  }
  return volume;
}

}  // namespace conclave
