// The fixed-tree sum of fabric.h on a CUDA device. Host code, for the caller's thread, with the
// stream's device current. A sum of columns: nothing is shared between elements.
#pragma once

#include <cstddef>

#include "comm/device/cuda_stream.h"

namespace conclave {

struct TreeSumRows {
  float* data = nullptr;  // [rows, count]
  int rows = 0;
  size_t count = 0;
};
// out[k] := the sum over i of data[i * count + k] in the tree of comm/base/reduction.h, extended to
// any number of rows as TreeSum does; in stream order. The rows are overwritten; `out` may be row 0
// but overlap no other. Reads rows * count floats once and writes count; more than 8 rows also
// write and read their partial sums. (rows - 1) * count additions. Returns the cudaError_t of the
// launch, or 0.
int LaunchTreeSum(const TreeSumRows& rows, float* out, CudaStream stream);

}  // namespace conclave
