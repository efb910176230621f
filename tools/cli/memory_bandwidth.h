// The machine's memory read bandwidth, measured: the roofline that `bench latency` divides by.
// Blocking; takes about a second.
#pragma once

#include <cstdint>

namespace conclave {

// Bytes per second that `threads` threads together read from `bytes` of distinct memory with plain
// vector loads, prefetched or not: the best of nine passes. `bytes` must be several times the
// last-level cache.
double MeasureReadBandwidth(int threads, int64_t bytes);

}  // namespace conclave
