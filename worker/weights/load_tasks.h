// Tasks of loading a rank's weights, each of a different part of them, and how they are run. Used
// by the loaders of the CPU and of GPUs; the engine's thread calls, the pool's threads work.
#pragma once

#include <functional>
#include <vector>

#include "absl/status/status.h"
#include "comm/device/compute_pool.h"

namespace conclave {

using LoadTask = std::function<absl::Status()>;

// Runs the tasks; after a failure those not begun are left out. The error of the first failed task
// in order.
absl::Status RunLoadTasks(const std::vector<LoadTask>& tasks, ComputePool& pool);

}  // namespace conclave
