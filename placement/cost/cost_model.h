// The cost model: seconds of one step and bytes of each rank, from first principles. Every operator
// of every layer counts its bytes and flops on a rank; a kernel takes its overhead plus the longer
// of the two at the profile's efficiencies; exchanges take their messages' latencies plus bytes
// over the slowest link class they use. Experts hit are expected values of independent uniform
// routing, sharpened by a measured imbalance. Pure functions of values; any thread. Sources of the
// formulas stand in README.md.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "placement/cost/candidate.h"
#include "placement/cost/model_dims.h"
#include "placement/hardware/cluster_topology.h"

namespace conclave {

// One step of the whole replica.
struct StepLoad {
  double sequences = 1;       // running, over all dp groups
  double tokens = 1;          // computed in this step, over all dp groups; decode: = sequences
  double context_tokens = 0;  // of KV that each sequence reads, mean
  double logit_rows = 1;      // rows that go through the head; decode: = sequences
  // Rows of the busiest rank over the mean, 1: even. Grows with skew; ExpectedImbalance gives it
  // for uniform routing.
  double imbalance = 1;
  bool operator==(const StepLoad&) const = default;
};
// Expected rows of the busiest of `ranks` ranks over the mean, when `rows` rows fall at random.
double ExpectedImbalance(int ranks, double rows);
StepLoad DecodeLoad(double sequences, double context_tokens);
// `prompts` prompts of `prompt_tokens` each in one step.
StepLoad PrefillLoad(double prompts, double prompt_tokens);

enum class CostKind : uint8_t {
  kAttentionWeights,
  kAttentionKv,
  kDenseFfn,
  kRouter,
  kExperts,
  kSharedExperts,
  kHead,
  kExchange,
  kTensorParallel,
  kPipeline,
  kOverhead
};
inline constexpr int kCostKinds = 11;
absl::string_view CostKindName(CostKind kind);  // "attention weights", "experts", ...

enum class Bound : uint8_t { kBandwidth, kCompute, kLatency, kLink };
absl::string_view BoundName(Bound bound);

// Of one rank in one step.
struct RankCost {
  double seconds[kCostKinds] = {};
  double bytes = 0;  // of device memory moved
  double flops = 0;
  double link_bytes[3] = {};  // sent, by LinkClass
  double link_messages[3] = {};
  double Seconds() const;
  bool operator==(const RankCost&) const = default;
};

struct StepCost {
  double seconds = 0;           // the step, pipeline included: latency of a token in decode
  double interval_seconds = 0;  // between steps with the pipeline full: throughput
  std::vector<RankCost> ranks;  // by rank
  int slowest_rank = 0;
  double seconds_by_kind[kCostKinds] = {};  // along the critical path; their sum is `seconds`
  CostKind binding = CostKind::kExperts;    // the largest of them
  Bound bound = Bound::kBandwidth;          // what limits it
  // The paper's measure: all experts once and the rest once per dp replica, in bytes, over
  // `seconds`; and its share of the devices' memory_bandwidth.
  double effective_bandwidth = 0;
  double bandwidth_share = 0;
};

StepCost CostOfStep(const ModelDims& model, const ClusterTopology& cluster,
                    const Candidate& candidate, const StepLoad& load);

// Of one rank.
struct RankBytes {
  double weights = 0;
  double kv_per_token = 0;  // of one sequence's token, over the rank's layers
  double activations = 0;   // scratch of a step of `step_tokens`, staging included
};
std::vector<RankBytes> BytesOfCandidate(const ModelDims& model, const Candidate& candidate,
                                        double step_tokens);

// OK, or ResourceExhausted naming the rank, what it needs and has, and the remedy. `kv_tokens`: of
// the whole replica, split over dp by token_shares.
absl::Status CheckFits(const ModelDims& model, const ClusterTopology& cluster,
                       const Candidate& candidate, double kv_tokens, double step_tokens);

// InvalidArgument when the grid cannot cut the model: heads, layers, experts.
absl::Status CheckGrid(const ModelDims& model, const ParallelSpec& spec);

// Expected number of distinct experts among `experts` that get at least one of `tokens` tokens,
// each choosing top_k at random.
double ExpectedExpertsHit(int experts, int top_k, double tokens);

}  // namespace conclave
