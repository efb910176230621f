// ParallelPlan: one placement of one model on a set of workers, at one epoch. Computed by
// placement, journaled and sent by the coordinator, obeyed by workers. A value; any thread may read
// it.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/strong_id.h"
#include "comm/types/expert_map.h"
#include "comm/types/parallel_spec.h"

namespace conclave {

enum class ExchangeKind : uint8_t { kNaive = 0, kPcc = 1 };

// Layers [begin, end) of one pipeline stage.
struct LayerRange {
  int begin = 0;
  int end = 0;
  bool operator==(const LayerRange&) const = default;
};

struct ParallelPlan {
  Epoch epoch;
  ParallelSpec spec;               // resolved
  std::vector<WorkerId> workers;   // [spec.WorkerCount()] by rank
  std::vector<LayerRange> stages;  // [spec.pp]
  ExpertMap experts;
  ExchangeKind exchange = ExchangeKind::kPcc;

  bool operator==(const ParallelPlan&) const = default;
};

}  // namespace conclave
