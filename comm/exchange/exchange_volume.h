// ExchangeVolume: what the dispatch, combine and gather of one MoE layer put on the wire, counted
// from the schedule alone. The planner prices plans with it, the demo compares PCC with naive,
// tests compare it with what fabrics counted. Pure; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/exchange/exchange.h"

namespace conclave {

// Chosen experts of every dp group.
struct ExchangeRouting {
  std::vector<std::vector<int32_t>> experts_by_dp;  // [dp][tokens * top_k]
  int top_k = 1;
};

// What one rank sends; own rows are not counted.
struct RankVolume {
  int64_t peers = 0;         // most ranks sent to in one exchange (dispatch or combine)
  int64_t messages = 0;      // dispatch and combine
  int64_t bytes = 0;         // dispatch and combine, headers included
  int64_t rows = 0;          // activations sent in the dispatch
  int64_t gather_bytes = 0;  // to the tp group, PCC with tp > 1
  bool operator==(const RankVolume&) const = default;
};

struct ExchangeVolume {
  std::vector<RankVolume> ranks;  // [stage size] by stage rank

  RankVolume Total() const;  // sums; peers: the maximum
};

// Naive or PCC, rows of floats; BuildTransfers (transfers.h) counts the others.
ExchangeVolume CountExchange(ExchangeKind kind, const ParallelSpec& spec, const LayerExperts& layer,
                             int hidden, const ExchangeRouting& routing);

}  // namespace conclave
