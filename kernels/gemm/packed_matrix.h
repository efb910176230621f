// PackedMatrix: a weight matrix [outputs, inputs] in the layout that SBI-GeMM streams (paper,
// section III-C: transformed at load so that a pass reads full cache lines in order): panels of 16
// outputs, each panel input-major:
//   element (n, k) at ((n / 16) * inputs + k) * 16 + n % 16, outputs padded with zeros to a
//   multiple of 16.
// A lane of a vector is an output, so every output is summed in input order whatever the vector
// width. `slices` of the 8 reduction slices (comm/base/reduction.h) lie in this matrix: 8 / tp when
// its inputs are a tensor-parallel or expert slice of the layer's, 8 when it has them all.
// Move-only owner of 64-byte-aligned memory (transparent huge pages asked for); read by any thread.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"
#include "absl/status/statusor.h"
#include "comm/base/dtype.h"

namespace conclave {

class PackedMatrix {
 public:
  static constexpr int kPanel = 16;

  PackedMatrix() = default;
  // Zero-filled. dtype is kF32, kF16 or kBf16; slices 1, 2, 4 or 8.
  PackedMatrix(int64_t outputs, int64_t inputs, Dtype dtype, int slices);
  PackedMatrix(PackedMatrix&&) noexcept;
  PackedMatrix& operator=(PackedMatrix&&) noexcept;
  ~PackedMatrix();

  int64_t outputs() const { return outputs_; }
  int64_t inputs() const { return inputs_; }
  Dtype dtype() const { return dtype_; }
  int slices() const { return slices_; }
  int64_t panels() const { return (outputs_ + kPanel - 1) / kPanel; }
  // Bytes held, padding included.
  int64_t bytes() const;
  const void* panel(int64_t p) const;

  // Sets rows [first, first + count) from row-major `source` (count x inputs, same dtype,
  // `source_stride` elements apart).
  void SetRows(int64_t first, int64_t count, const void* source, int64_t source_stride);

  // One element as float, for references and tests.
  float At(int64_t output, int64_t input) const;

 private:
  int64_t outputs_ = 0;
  int64_t inputs_ = 0;
  Dtype dtype_ = Dtype::kF32;
  int slices_ = 8;
  uint8_t* data_ = nullptr;
  int64_t mapped_bytes_ = 0;
};

}  // namespace conclave
