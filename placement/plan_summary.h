// A plan in words: who holds which slice and expert, one line for each rank. What `conclave plan`,
// `status` and the demo print. Pure functions over values; any thread may call them.
#pragma once

#include <string>
#include <vector>

#include "comm/types/model_shape.h"
#include "comm/types/parallel_plan.h"

namespace conclave {

// names[rank] is how to call the worker. The first line is the grid; then a line for each rank, for
// example "rank 3 (w3): layers 0-5, tp 1 of 2 (heads 2-3), dp 1 of 2, experts 12-15, 1.2 MiB of
// weights".
std::vector<std::string> SummarizePlan(const ModelShape& shape, const ParallelPlan& plan,
                                       const std::vector<std::string>& names);

// The experts of stage rank `stage_rank` in layer `layer`: "0-3,8", with "/1" after an expert cut
// in slices; "none".
std::string ExpertsText(const ParallelPlan& plan, int layer, int stage_rank);

}  // namespace conclave
