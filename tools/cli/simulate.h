// What `simulate` runs and shows: the plan as it is, with experts balanced or copied, with a node
// less or nodes more, each forecast step by step. Pure; one seed, one result; any thread.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "placement/forecast/forecast.h"
#include "tools/cli/plan.h"
#include "tools/cli/plan_diff.h"

namespace conclave {

struct Scenario {
  std::string name;  // "as planned", "without node-1"
  PlanDocument plan;
  double sequences = 0;  // in a step
  SimulateResult forecast;
  std::optional<PlanDiff> change;  // from the first scenario, where the cluster differs
};

// The first scenario is the plan itself. InvalidArgument names the flag, the value and the remedy;
// other errors are the search's and the forecast's.
absl::StatusOr<std::vector<Scenario>> ForecastScenarios(const SimulateOptions& options,
                                                        const PlanInputs& inputs);

std::string RenderScenarios(const std::vector<Scenario>& scenarios, const TextStyle& style);
boost::json::object ScenariosToJson(const std::vector<Scenario>& scenarios);

}  // namespace conclave
