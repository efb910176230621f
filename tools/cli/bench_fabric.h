// `conclave bench fabric`: latency and bandwidth of the fabric between processes of this machine,
// which it starts itself: by size for each pair and each collective, and the MoE exchange by
// schedule. Blocking; prints a table or JSON; called by the main thread, which must not use UCX.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace conclave {

struct BenchFabricOptions {
  std::string transport = "shm";  // or tcp
  std::vector<std::string> sizes = {"64", "1KiB", "16KiB", "256KiB", "4MiB"};
  int ranks = 4;
  std::vector<std::string> collectives = {};  // empty: all
  std::vector<int> tensor_parallel = {1, 2};  // of the MoE exchange
  std::vector<int> tokens = {1, 64};          // likewise, of each dp group
  int hidden = 7168;
  int top_k = 8;
  int experts = 64;
  int nodes = 2;         // that two-level takes the ranks for
  double seconds = 0.1;  // of each measurement
  bool json = false;
};

// InvalidArgument names a flag; Unavailable what a rank could not do; Cancelled.
absl::Status RunBenchFabric(const BenchFabricOptions& options, const std::atomic<bool>& cancelled);

}  // namespace conclave
