// LinkReport: what a forecast's bytes add up to on the cluster's links: by pair of devices inside a
// node or fast domain, by pair of nodes over the network. Pure; any thread.
#pragma once

#include <vector>

#include "placement/forecast/forecast.h"
#include "placement/forecast/stage_clock.h"

namespace conclave {

struct ReportTime {
  int steps = 1;
  double step_seconds = 0;  // mean
};

// Exchanges as run by `stages`, hand-overs between stages, and the rings of tensor-parallel
// collectives as the cost model has them; at most 32, busiest first, ties by names.
std::vector<LinkUse> ReportLinks(const SimulateInput& input, const std::vector<StageClock>& stages,
                                 const ReportTime& time);

// Bytes of one step that stage rank `stage_rank` hands to the next stage.
double HandOverBytes(const SimulateInput& input, int stage_rank);

}  // namespace conclave
