// ExactProduct: one product y = x W^T as both exact kernels take it, dense or grouped by slots,
// plain or with SwiGLU. Internal to kernels/exact. A value that borrows device memory; any thread.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

// Entry e reads row row_of_entry[e] (e without one) and writes row e of y. Slot s, which is matrix
// s, serves the entries order[slot_first[s] .. slot_first[s + 1]); without slot_first matrix 0
// serves entries 0 .. entries in order.
struct ExactProduct {
  const float* x = nullptr;
  int64_t x_stride = 0;
  bool x_aligned = false;  // rows of x may be read 16 bytes at a time
  WeightView weights;
  int32_t slices = 8;
  float* y = nullptr;
  int64_t y_stride = 0;
  int32_t columns = 0;  // of y that are stored
  bool swiglu = false;  // y = silu(gate) * up; eight columns from each tile of outputs
  int32_t entries = 0;
  const int32_t* slot_first = nullptr;
  const int32_t* order = nullptr;
  const int32_t* row_of_entry = nullptr;
};

// Streams the weights for blocks of `rows` (1, 2, 4, 8 or 16) entries.
absl::Status LaunchExactStream(const ExactProduct& product, int rows, CudaStream stream);
// Register tiles of 128 outputs by 128 entries.
absl::Status LaunchExactTile(const ExactProduct& product, CudaStream stream);

// At most so many blocks of `rows` entries do all slots have.
inline int64_t ExactRowBlocks(const ExactProduct& product, int64_t rows) {
  const int64_t entries = product.entries;
  if (product.slot_first == nullptr) return (entries + rows - 1) / rows;
  const int64_t slots = product.weights.matrices;
  return entries / rows + (entries < slots ? entries : slots);
}

}  // namespace conclave
