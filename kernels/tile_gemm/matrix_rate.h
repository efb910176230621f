// How fast a GPU multiplies bf16 matrices: the roofline that benchmarks of compute-bound kernels
// divide by, measured in the same run. By cuBLASLt where it can be loaded, by tile_gemm otherwise.
// Blocking; on the current device.
#pragma once

#include "absl/status/statusor.h"

namespace conclave {

// Flops per second of the product of two matrices of 8192 x 8192 random bf16 values.
absl::StatusOr<double> MeasureMatrixRate();

}  // namespace conclave
