// What the benches of engines in this process share: the cluster that model options mean, random
// prompts, and the read bandwidth of the device measured in the same run. One thread.
#pragma once

#include <vector>

#include "absl/status/statusor.h"
#include "tools/cli/model_options.h"
#include "worker/engine/engine_cluster.h"

namespace conclave {

// Sizes of a bench: the largest batch, and tokens of each sequence in and out.
struct BenchSize {
  int batch = 1;
  int input_tokens = 0;
  int output_tokens = 0;
};

// Index of the GPU that the options mean, -1 for the CPU.
int GpuOf(const ModelOptions& options);

// Engines with a cache that just holds `size`. InvalidArgument when it exceeds the model's
// positions.
absl::StatusOr<EngineClusterOptions> BenchClusterOptions(const ModelOptions& options,
                                                         const ResolvedModel& model,
                                                         const BenchSize& size);

// Bytes per second that the device reads from its memory.
absl::StatusOr<double> MeasureDeviceRead(int gpu);

std::vector<EngineRequest> RandomRequests(const BenchSize& size, int vocab);

// The value below which `share` of the values lie; 0 without values.
double Percentile(std::vector<double> values, double share);

}  // namespace conclave
