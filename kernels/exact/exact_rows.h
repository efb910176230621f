// ExactRows: a borrowed view of row-major fp32 rows in device memory, as the exact kernels take
// them. A value; any thread.
#pragma once

#include <cstdint>

namespace conclave {

struct ExactRows {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next, >= cols
};

}  // namespace conclave
