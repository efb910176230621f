// The search: the best candidate for a model on a cluster, and why. It enumerates tp, dp, pp,
// expert slices, exchange schedule and uneven shares, prices each with the cost model, and keeps
// the runners-up. Pure; deterministic: equal inputs give equal plans bit for bit; ties go to fewer
// stages, then smaller tp, then fewer devices. Any thread.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "placement/cost/cost_model.h"

namespace conclave {

enum class Objective : uint8_t { kLatency = 0, kThroughput = 1, kCost = 2 };
absl::string_view ObjectiveName(Objective objective);
absl::StatusOr<Objective> ParseObjective(absl::string_view name);

// What users will ask of the cluster.
struct RequestMix {
  double concurrency = 0;       // running sequences; 0: 1 for latency, searched for the others
  double prompt_tokens = 1024;  // mean
  double output_tokens = 256;   // mean
  bool operator==(const RequestMix&) const = default;
};

struct SearchInput {
  ModelDims model;
  ClusterTopology cluster;
  RequestMix mix;
  Objective objective = Objective::kLatency;
  double ttft_seconds = 0;               // SLO for the prompt; 0: none
  double tpot_seconds = 0;               // SLO between tokens; 0: none
  std::optional<ParallelSpec> spec;      // nullopt: searched
  std::optional<ScheduleKind> schedule;  // nullopt: searched
  bool uneven = true;                    // allow uneven stages and shares on heterogeneous clusters
  int runners_up = 5;
};

// One priced candidate.
struct PricedPlan {
  Candidate candidate;
  int devices = 0;          // used
  double concurrency = 0;   // sequences at which it was priced
  StepCost decode;          // a decode step at that concurrency, mean context
  StepCost prefill;         // of one mean prompt in every dp group
  double tpot_seconds = 0;  // decode step with the prefill work of arriving requests mixed in
  double ttft_seconds = 0;
  double tokens_per_second = 0;        // output, whole cluster
  double cost_per_million_tokens = 0;  // 0: nodes have no price
  double sequences_max = 0;            // that the KV memory holds
  std::string note;                    // why it ranks where it does, one line: the binding resource
  // Steps in the pipeline at once, each of concurrency / steps_in_flight sequences; 1 without pp.
  int steps_in_flight = 1;
};

struct SearchResult {
  PricedPlan best;
  std::vector<PricedPlan> runners_up;  // best first, each of another grid
  int candidates = 0;                  // priced
  int too_large = 0;                   // did not fit
  int slo_missed = 0;
  std::string reason;  // of the choice, a few sentences: binding resource, what the next ones lose
};

// InvalidArgument: a spec that does not fit the model. ResourceExhausted: nothing fits, says by how
// much and what would. FailedPrecondition: nothing meets the SLO; names the closest.
absl::StatusOr<SearchResult> SearchPlan(const SearchInput& input);

// Prices one candidate as the search does.
absl::StatusOr<PricedPlan> PricePlan(const SearchInput& input, const Candidate& candidate);

}  // namespace conclave
