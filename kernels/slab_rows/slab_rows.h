// slab_rows: small copies of rows between the products of a step on a GPU: the slabs of a product
// cut along its inputs, summed into bf16 rows; and chosen rows side by side. Memory bound; the
// caller owns all memory; any thread, on its current device; capturable.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

// out[row, c] = bf16(sum over slabs, ascending, of slabs[s][row, c]).
struct SumSlabsArgs {
  const float* slabs = nullptr;  // [count][rows][row_stride]
  int32_t count = 0;
  int64_t slab_stride = 0;  // floats from slab to slab
  int64_t rows = 0;
  int64_t columns = 0;     // a multiple of 8
  int64_t row_stride = 0;  // elements, of slabs and of out; a multiple of 8
  void* out = nullptr;     // bf16 [rows, row_stride]
};
absl::Status SumSlabs(const SumSlabsArgs& args, CudaStream stream, bool dependent);

// out row i = row index[i] of x.
struct GatherBf16Args {
  const void* x = nullptr;         // bf16 [.., columns]
  const int32_t* index = nullptr;  // device, [rows]
  int64_t rows = 0;
  int64_t columns = 0;  // a multiple of 8
  void* out = nullptr;  // bf16 [rows, columns]
};
absl::Status GatherBf16(const GatherBf16Args& args, CudaStream stream, bool dependent);

}  // namespace conclave
