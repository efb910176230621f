// Plan inputs as JSON and back, every number bit for bit: the part of a plan file that decides the
// rest. Reading checks types and ranges, so that no file can crash the search. Pure; any thread.
#pragma once

#include <boost/json.hpp>

#include "absl/status/statusor.h"
#include "coordinator/model_config/json_fields.h"
#include "tools/cli/plan_inputs.h"

namespace conclave {

boost::json::object InputsToJson(const PlanInputs& inputs);
// InvalidArgument names the key, the value and the remedy.
absl::StatusOr<PlanInputs> InputsFromJson(const JsonFields& fields);

boost::json::object SpecToJson(const ParallelSpec& spec);
absl::StatusOr<ParallelSpec> SpecFromJson(const JsonFields& fields);

boost::json::array NumbersToJson(const std::vector<double>& numbers);
// A required list of finite numbers, each at least 0.
absl::StatusOr<std::vector<double>> NumbersFromJson(const JsonFields& fields, const char* key);

}  // namespace conclave
