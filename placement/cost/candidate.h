// Candidate: one way to run a model on a cluster, as the cost model and the search see it: a grid,
// the device of each rank, and shares that may be uneven. Without a cluster's names and ids; a
// ParallelPlan is made of the chosen one. A value; any thread.
#pragma once

#include <vector>

#include "comm/types/parallel_plan.h"
#include "comm/types/parallel_spec.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {

// How rows travel between the ranks of a stage; comm/exchange defines each.
enum class ScheduleKind : uint8_t { kNaive = 0, kPcc = 1, kTwoLevel = 2 };
absl::string_view ScheduleName(ScheduleKind kind);  // "naive", "pcc", "two-level"

struct Candidate {
  ParallelSpec spec;  // resolved; ep = tp * dp / slices, 0 for a dense model
  ScheduleKind schedule = ScheduleKind::kPcc;
  std::vector<int> devices;          // [spec.WorkerCount()] by rank
  std::vector<LayerRange> stages;    // [spec.pp]
  std::vector<double> token_shares;  // [spec.dp] of the step's tokens, sum 1
  // [spec.StageSize()] share of a MoE layer's expert weights that a stage rank holds, summing to 1
  // (more with extra copies); the routed rows follow it. Empty for a dense model.
  std::vector<double> expert_shares;
  bool operator==(const Candidate&) const = default;
};

// Even shares, even stages, rank r on devices[r].
Candidate EvenCandidate(const ParallelSpec& spec, ScheduleKind schedule, int layers,
                        std::vector<int> devices);

}  // namespace conclave
