// Forecast: decode and prefill steps in virtual time over the real exchange schedules, with queues
// on every link and routing drawn from a trace or a skew: percentiles where the cost model gives
// expected values, and what-if questions: a node lost, nodes added, redundant experts. Pure: one
// seed, one result. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/types/expert_map.h"
#include "placement/balance/expert_balance.h"
#include "placement/cost/cost_model.h"

namespace conclave {

struct SimulateInput {
  ModelDims model;
  ClusterTopology cluster;
  Candidate candidate;
  // Its imbalance is not used: the rows are drawn. Tokens are rounded to whole ones, at least 1.
  StepLoad load;
  // Load of the experts, layers x experts of the model's MoE layers; empty: uniform.
  LoadProfile experts;
  // Owners of one MoE layer's experts by stage rank, for each MoE layer; empty: spread by
  // candidate.expert_shares.
  std::vector<LayerExperts> maps;
  int steps = 100;
  uint64_t seed = 1;
};

struct LinkUse {
  std::string from;  // "node-3/gpu-1" or "node-3 network"
  std::string to;
  LinkClass link = LinkClass::kNetwork;
  double bytes_per_step = 0;
  double busy_share = 0;  // of the step, of the link's bandwidth
};

struct SimulateResult {
  double mean_seconds = 0;
  double p50_seconds = 0;
  double p95_seconds = 0;
  double p99_seconds = 0;
  double max_seconds = 0;
  // With the pipeline full: tokens of a step over the mean of its slowest stage.
  double tokens_per_second = 0;
  double imbalance_mean = 0;  // busiest rank's rows over the mean, over layers and steps
  double imbalance_max = 0;
  std::vector<double> step_seconds;  // [steps]
  std::vector<LinkUse> links;        // busiest first, at most 32
};

// InvalidArgument names the field of the input that does not fit the others, its value and the
// remedy.
absl::StatusOr<SimulateResult> Simulate(const SimulateInput& input);

// layers x experts counts of a Zipf law with exponent `skew` (0: uniform), permuted per layer by
// `seed`, summing to 1 a layer. A skew that is negative or no number counts as 0; without layers or
// experts the profile is empty.
LoadProfile SyntheticLoad(int layers, int experts, double skew, uint64_t seed);

}  // namespace conclave
