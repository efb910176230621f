// The planner: which worker holds which slice of the model. Pure: values in, values out, no I/O, no
// clock; equal inputs give equal plans on every machine. An explicit spec is obeyed; otherwise a
// grid is chosen by memory. Any thread may call it.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/base/strong_id.h"
#include "comm/types/parallel_plan.h"
#include "comm/types/worker_facts.h"

namespace conclave {

struct PlacementWorker {
  WorkerId id;
  std::string name;
  std::string node;
  int64_t memory_bytes = 0;  // for weights and KV; 0: no limit is known
};

struct PlacementInput {
  ModelShape shape;
  std::optional<ParallelSpec> spec;      // nullopt: choose by memory
  std::vector<PlacementWorker> workers;  // in any order
  CacheOptions cache;
  ExchangeKind exchange = ExchangeKind::kPcc;
  PayloadFormat payload = PayloadFormat::kF32;  // of the exchange
};

// A plan whose epoch is 0. The choice among grids: as many workers as possible; then few pipeline
// stages (they idle), a tp group inside one node, the widest tp (up to the heads and 8), then dp;
// experts cut into slices only when there are more ranks in a stage than experts. A grid is
// possible when the spec resolves and every rank fits: its weights and the KV cache of one sequence
// of min(context, kKvTokensLeast) tokens. Ranks: workers by (node, name), tp groups kept inside a
// node where the nodes' worker counts allow it. Experts: block distribution, group = expert * ep /
// experts, whose slice s lies on stage rank group * slices + s. InvalidArgument: the spec does not
// fit the model. FailedPrecondition: too few workers. ResourceExhausted: too little memory; says
// what the best grid lacks.
absl::StatusOr<ParallelPlan> MakePlan(const PlacementInput& input);

inline constexpr int kKvTokensLeast = 1024;

// The owners of every expert slice of a resolved spec: one map for each layer of the model.
ExpertMap SpreadExperts(const ModelShape& shape, const ParallelSpec& spec);

}  // namespace conclave
