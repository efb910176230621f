// For benchmarks: what this machine can do at most, so that every figure is printed as a share of a
// limit measured in the same run. One thread calls.
#pragma once

#include <cstdint>

#include "comm/device/compute_pool.h"

namespace conclave {

// GB/s (1e9 bytes) of plain vector loads, with or without software prefetch, over `bytes` of
// huge-page memory by all threads of the pool: the best of several passes. Make `bytes` several
// times the last-level cache.
double MeasureReadBandwidth(ComputePool& pool, int64_t bytes);

// GFLOP/s of independent fused multiply-adds in AVX2 registers on all threads of the pool.
double MeasureAvx2Peak(ComputePool& pool);

}  // namespace conclave
