#include "worker/weights/load_tasks.h"

#include <atomic>
#include <utility>

#include "comm/base/status.h"

namespace conclave {

absl::Status RunLoadTasks(const std::vector<LoadTask>& tasks, ComputePool& pool) {
  std::vector<absl::Status> results(tasks.size());
  std::atomic<bool> failed{false};
  pool.ParallelFor(static_cast<int64_t>(tasks.size()), [&](int64_t i) {
    if (failed.load(std::memory_order_relaxed)) return;
    results[i] = tasks[i]();
    if (!results[i].ok()) failed.store(true, std::memory_order_relaxed);
  });
  for (absl::Status& result : results) RETURN_IF_ERROR(std::move(result));
  return absl::OkStatus();
}

}  // namespace conclave
