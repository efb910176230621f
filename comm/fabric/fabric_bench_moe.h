// Times of the MoE exchange, dispatch and combine, by schedule: random routing over experts that
// are spread evenly, the experts' own work left out. Every rank of the world calls the function
// with the same load. Blocking; reports what the exchange reports; keeps nothing.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/fabric_bench.h"
#include "comm/types/parallel_plan.h"

namespace conclave {

// The schedules that are compared, the one to compare with first.
absl::Span<const ExchangeKind> BenchExchangeKinds();

struct MoeLoad {
  ExchangeKind kind = ExchangeKind::kNaive;
  int ranks = 1;
  int tp = 1;      // divides ranks; dp is the rest
  int nodes = 1;   // two-level: neighbours in equal parts count as nodes
  int tokens = 1;  // of each dp group
  int hidden = 7168;
  int top_k = 8;
  int experts = 64;
  BenchCalls calls;
};

struct MoeTimes {
  std::vector<double> seconds;  // of each dispatch and combine on this rank
  double bytes_per_call = 0;    // sent by this rank
  double messages_per_call = 0;
};

// InvalidArgument when the load does not fit together.
absl::StatusOr<MoeTimes> TimeMoeExchange(Fabric& fabric, const MoeLoad& load);

}  // namespace conclave
