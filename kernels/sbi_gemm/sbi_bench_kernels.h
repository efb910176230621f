// Plain kernels for sbi_gemm_bench: filling a pool and reading it as fast as the memory gives it.
// Any thread, on its current device; nothing is waited for.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

// Small bf16 values of both signs, none special. bytes: a multiple of 16.
absl::Status FillPool(void* pool, int64_t bytes, CudaStream stream);

// Reads all bytes (a multiple of 16); sums: [kReadPoolSums], hardly ever written.
absl::Status ReadPool(const void* pool, int64_t bytes, uint32_t* sums, CudaStream stream);
inline constexpr int kReadPoolSums = 132 * 8;

}  // namespace conclave
