// A plan as a file: versioned JSON with the inputs, the choice and the experts' owners. The inputs
// decide everything else, bit for bit: reading a file and planning again writes the same bytes.
// Pure functions over values and text; any thread.
#pragma once

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/cli/plan_experts.h"
#include "tools/cli/plan_inputs.h"

namespace conclave {

inline constexpr int kPlanFormatVersion = 1;

struct PlanDocument {
  PlanInputs inputs;
  SearchResult result;
  PlacedExperts experts;  // of result.best; blocks when there is no load
};

// Searches, then places the experts of the best plan. Errors are the search's.
absl::StatusOr<PlanDocument> MakePlanDocument(const PlanInputs& inputs);

// The ranks of a decode step with what they hand to the next stage, which the cost of a step keeps
// apart: each rank of a stage sends its dp group's activations to its like of the next.
std::vector<RankCost> WithHandOvers(const SearchInput& search, const PricedPlan& plan);

// The file's text; ends with a newline.
std::string WritePlanDocument(const PlanDocument& document);

// What a plan file says: its inputs, and the candidate that was chosen then.
struct SavedPlan {
  PlanInputs inputs;
  Candidate chosen;
  ExpertMap experts;
};
// InvalidArgument names `context` (the file), the key, the value and the remedy.
absl::StatusOr<SavedPlan> ReadPlanDocument(absl::string_view text, absl::string_view context);

// Prices the saved choice with its saved inputs; no runners-up. Errors are PricePlan's.
absl::StatusOr<PlanDocument> PriceSavedPlan(const SavedPlan& saved);

}  // namespace conclave
