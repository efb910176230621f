// The verbs of planning, one function each: `plan`, `plan diff`, `plan explain` and `simulate`.
// They need no cluster and no model weights. A Status says how it went: InvalidArgument is a usage
// error, anything else a failure; one thread.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "tools/cli/plan_inputs.h"

namespace conclave {

// What to do with a plan once it is made.
struct PlanOutputs {
  bool json = false;        // stdout has only the plan file's JSON
  std::string html_path;    // page to write
  std::string output_path;  // plan file to write
};

struct PlanOptions {
  PlanQuestion question;
  PlanOutputs outputs;
  std::string compare_path;  // an older plan file: what changes from it to this plan
};
absl::Status RunPlan(const PlanOptions& options);

struct PlanDiffOptions {
  std::string before_path;
  std::string after_path;
  bool json = false;
};
absl::Status RunPlanDiff(const PlanDiffOptions& options);

// Plans again from a file's inputs; says so when the figures are no longer those of the file.
struct PlanExplainOptions {
  std::string path;
  PlanOutputs outputs;
};
absl::Status RunPlanExplain(const PlanExplainOptions& options);

struct SimulateOptions {
  PlanQuestion question;
  int steps = 200;
  uint64_t seed = 1;
  double skew = 0;            // Zipf exponent of the experts' load; not with a trace
  std::string lost_node;      // name; empty: none
  int added_nodes = 0;        // like the cluster's last
  int redundant_experts = 0;  // copies for each layer beyond one of each expert
  bool json = false;
};
absl::Status RunSimulate(const SimulateOptions& options);

}  // namespace conclave
