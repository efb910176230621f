// How fast a GPU reads its memory: the roofline that benchmarks of the memory-bound kernels divide
// by, measured in the same run. Blocking; on the current device. Reads `bytes` once per pass with
// 16-byte loads, eight under way in each thread, and adds nothing up but a checksum.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace conclave {

// Bytes per second: the best of several passes over `bytes` of fresh memory, several times the L2
// cache. ResourceExhausted when they cannot be allocated.
absl::StatusOr<double> MeasureDeviceReadBandwidth(int64_t bytes);

}  // namespace conclave
