// MoeExchange::Layer: the lookups of one MoE layer, made when it is first dispatched. Private to
// the moe_exchange*.cc files.
#pragma once

#include "comm/fabric/moe_exchange.h"

namespace conclave {

struct MoeExchange::Layer {
  Layer(const MoeExchangeOptions& options, const LayerExperts& experts, int stage_rank)
      : schedule({options.kind, options.spec, stage_rank, options.nodes}, experts),
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

// Messages start at multiples of this in the buffers.
inline int64_t AlignMessage(int64_t bytes) {
  constexpr int64_t kAlignment = 64;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

inline int64_t EntriesOf(const DispatchToPeer& to) {
  return static_cast<int64_t>(to.entries.size());
}

}  // namespace conclave
