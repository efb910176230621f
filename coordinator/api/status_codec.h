// ClusterStatus as JSON: the body of GET /admin/status, which `conclave status` and the dashboard
// show. Experts are written as ranges and neighbouring layers with equal maps as one entry, so that
// 100 layers of 3,000 experts stay small. Pure; any thread.
#pragma once

#include <string>

#include "boost/json.hpp"
#include "coordinator/service/cluster_status.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

// Keys are the fields' names. plan.experts: [{"layers": "0-5", "ranks": ["0-3", ...]}], by rank of
// the stage; a map with slices adds them: "0-3/1" is slice 1 of experts 0 to 3. exchange_total sums
// the workers' counters.
std::string ClusterStatusJson(const ClusterStatus& status);

// {"model": ..., "counts": [[tokens of each expert of layer 0, ...], ...]}: rows of dense layers
// are zeros. What `plan --trace` reads.
std::string ExpertLoadsJson(absl::string_view model, const LoadProfile& loads);

// Ascending numbers as ranges: "0-3,8".
std::string RangesText(const std::vector<int>& numbers);

}  // namespace conclave
