// The fixed-tree sum of fabric.h on a CUDA device. Host code; the caller's thread, with the stream's
// device current.
#pragma once

#include <cstddef>

#include "comm/device/cuda_stream.h"

namespace conclave {

// out[k] := the sum over i of data[i * count + k] in the tree of comm/base/reduction.h, extended to
// any number of rows as TreeSum does; in stream order. The rows are overwritten; `out` may be row 0 but
// overlap no other. Reads rows * count floats once and writes count (up to 8 rows; more rows also
// write their partial sums), rows * count additions. Returns the cudaError_t of the launch, or 0.
struct TreeSumRows {
  float* data = nullptr;  // [rows, count]
  int rows = 0;
  size_t count = 0;
};
int LaunchTreeSum(const TreeSumRows& rows, float* out, CudaStream stream);

}  // namespace conclave
