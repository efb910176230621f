// Inputs of forecast tests: a small mixture of experts and clusters with round figures, so that a
// reader can check a result by head. Values; any thread.
#pragma once

#include <vector>

#include "placement/forecast/forecast.h"

namespace conclave {

// 6 layers, the first dense; 32 experts, 4 a token.
ModelDims SmallMoe();

// `nodes` nodes of `devices` devices each: 1 TB/s, 100 TFLOP/s, fast links of 100 GB/s, network
// ports of 10 GB/s.
ClusterTopology SmallCluster(int nodes, int devices);

// tp * dp * pp ranks on the first devices, even shares; decode of `sequences`.
SimulateInput SmallInput(const ParallelSpec& spec, ScheduleKind schedule, double sequences);

ParallelSpec Grid(int tp, int dp, int pp = 1, int slices = 1);

}  // namespace conclave
