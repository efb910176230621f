// The soak of fabrics: a world of processes runs many random operations (RandomCollectives), each
// checked, and what every process holds of the machine is watched from the end of the warm-up on.
// One thread drives it; it blocks until the world is done or fails.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/resource_use.h"

namespace conclave {

struct SoakOptions {
  int ranks = 4;
  bool one_node = true;  // shared memory; else TCP
  int64_t operations = 1000;
  uint64_t seed = 1;
  size_t bytes_max = 1 << 20;               // of a message
  absl::Duration stall = absl::Minutes(5);  // the longest silence of a rank between two reports
};

// What each rank held at one moment.
struct SoakSample {
  int64_t operations = 0;  // done by then
  std::vector<ResourceUse> ranks;
};

struct SoakReport {
  std::vector<SoakSample>
      samples;  // the first when the warm-up (a tenth) was over, the last at the end
  std::vector<uint64_t> digests;  // by rank, of all results
};

// Runs it; `on_sample` sees each of about ten samples as it comes. What a rank found wrong comes
// back with its number.
absl::StatusOr<SoakReport> RunSoak(const SoakOptions& options,
                                   const std::function<void(const SoakSample&)>& on_sample);

// How far memory may grow between the first and the last sample: pools that reach their size late.
// A leak of 100 bytes an operation shows within 100,000.
struct SoakLimits {
  int64_t heap_bytes = 2 << 20;
  int64_t resident_bytes = 16 << 20;
};

// Internal names the rank and what grew: memory beyond `limits`; open files or shared memory at
// all.
absl::Status CheckNoGrowth(const SoakReport& report, const SoakLimits& limits);

}  // namespace conclave
