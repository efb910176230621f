// Views of row-major fp32 matrices, as kernels take them. They borrow; the caller keeps the memory.
// Values.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace conclave {

struct ConstRows {
  const float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols

  const float* row(int64_t i) const { return data + i * stride; }
};

struct Rows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  float* row(int64_t i) const { return data + i * stride; }
  operator ConstRows() const { return {data, rows, cols, stride}; }
};

}  // namespace conclave
