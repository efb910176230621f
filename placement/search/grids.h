// Grids: every grid worth pricing for a model on a cluster: tp, dp, pp, the devices of each rank,
// and the expert slices and schedules that go with it. Pure functions; any thread.
#pragma once

#include <vector>

#include "placement/search/search.h"

namespace conclave {

// One choice of tp, dp and pp on chosen devices.
struct Grid {
  ParallelSpec spec;                    // with the fewest slices that are legal
  std::vector<int> devices;             // [spec.WorkerCount()]
  std::vector<int> slices;              // legal ones, ascending
  std::vector<ScheduleKind> schedules;  // that differ on these devices, PCC first
};

// In a fixed order. Empty when the spec or the model allows none on the cluster.
std::vector<Grid> EnumerateGrids(const SearchInput& input);

// `spec` with `slices` and the ep that follows.
ParallelSpec WithSlices(ParallelSpec spec, const ModelDims& model, int slices);

}  // namespace conclave
