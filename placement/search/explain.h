// Explanations of a search in sentences with numbers: what binds a plan, what the others lose, and
// what would make a model fit. Pure functions; any thread.
#pragma once

#include <string>

#include "placement/search/pricing.h"

namespace conclave {

// "tp=8,dp=2,pp=1,ep=16 (pcc)", with the device count and uneven parts where there are any.
std::string DescribePlan(const PricedPlan& plan);
// One line: the largest parts of a decode step and what limits it.
std::string BindingNote(const SearchInput& input, const PricedPlan& plan);
// One line: how much `other` loses to `best`, where it loses and where it saves.
std::string LossNote(const SearchInput& input, const PricedPlan& best, const PricedPlan& other);
// A few sentences on result.best and its nearest runners-up.
std::string ReasonOf(const SearchInput& input, const SearchResult& result);
// FailedPrecondition: names the SLO missed, the closest plan and the remedies.
absl::Status SloMissed(const SearchInput& input, const PricedPlan& closest);

}  // namespace conclave
