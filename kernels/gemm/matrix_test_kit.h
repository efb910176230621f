// Random rows and matrices for the tests and benchmarks of kernels: reproducible from a seed.
// Values; any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/dtype.h"
#include "kernels/gemm/packed_matrix.h"
#include "kernels/tensor/rows.h"

namespace conclave {

// An owned row-major matrix; stride >= cols leaves a gap that kernels must not touch.
class OwnedRows {
 public:
  OwnedRows(int64_t rows, int64_t cols, int64_t gap = 0)
      : data_(rows * (cols + gap), 0.0f), rows_(rows), cols_(cols), stride_(cols + gap) {}

  // Uniform in [-1, 1).
  static OwnedRows Random(int64_t rows, int64_t cols, uint64_t seed, int64_t gap = 0);

  Rows view() { return {data_.data(), rows_, cols_, stride_}; }
  ConstRows view() const { return {data_.data(), rows_, cols_, stride_}; }
  float* row(int64_t i) { return data_.data() + i * stride_; }
  const float* row(int64_t i) const { return data_.data() + i * stride_; }

  // The same bits in every element (and in the gaps).
  bool BitEqual(const OwnedRows& other) const;

 private:
  std::vector<float> data_;
  int64_t rows_, cols_, stride_;
};

// Row-major elements of `dtype`, uniform in [-1, 1) and rounded: [rows, cols].
std::vector<uint8_t> RandomElements(int64_t rows, int64_t cols, Dtype dtype, uint64_t seed);

// A packed matrix of RandomElements.
PackedMatrix RandomMatrix(int64_t outputs, int64_t inputs, Dtype dtype, uint64_t seed,
                          int slices = 8);

// The columns [first, first + count) of a packed matrix: what one rank of a tensor-parallel group
// holds.
PackedMatrix ColumnSlice(const PackedMatrix& whole, int64_t first, int64_t count, int slices);

}  // namespace conclave
