#include "kernels/gemm/matrix_test_kit.h"

#include <cstring>

#include "comm/base/rng.h"

namespace conclave {
namespace {

// One element of `dtype` at index i of `data`.
void SetElement(uint8_t* data, Dtype dtype, int64_t i, float value) {
  if (dtype == Dtype::kF32) {
    std::memcpy(data + i * 4, &value, 4);
    return;
  }
  const uint16_t bits = dtype == Dtype::kF16 ? FloatToF16(value) : FloatToBf16(value);
  std::memcpy(data + i * 2, &bits, 2);
}

float Uniform(Rng& rng) { return static_cast<float>(rng.Next() >> 40) * 0x1p-23f - 1.0f; }

}  // namespace

OwnedRows OwnedRows::Random(int64_t rows, int64_t cols, uint64_t seed, int64_t gap) {
  OwnedRows result(rows, cols, gap);
  Rng rng(seed);
  for (float& value : result.data_) value = Uniform(rng);
  return result;
}

bool OwnedRows::BitEqual(const OwnedRows& other) const {
  return data_.size() == other.data_.size() &&
         std::memcmp(data_.data(), other.data_.data(), data_.size() * sizeof(float)) == 0;
}

std::vector<uint8_t> RandomElements(int64_t rows, int64_t cols, Dtype dtype, uint64_t seed) {
  std::vector<uint8_t> elements(rows * cols * DtypeBytes(dtype));
  Rng rng(seed);
  for (int64_t i = 0; i < rows * cols; ++i) SetElement(elements.data(), dtype, i, Uniform(rng));
  return elements;
}

PackedMatrix RandomMatrix(int64_t outputs, int64_t inputs, Dtype dtype, uint64_t seed, int slices) {
  PackedMatrix matrix(outputs, inputs, dtype, slices);
  matrix.SetRows(0, outputs, RandomElements(outputs, inputs, dtype, seed).data(), inputs);
  return matrix;
}

PackedMatrix ColumnSlice(const PackedMatrix& whole, int64_t first, int64_t count, int slices) {
  PackedMatrix part(whole.outputs(), count, whole.dtype(), slices);
  std::vector<uint8_t> row(count * DtypeBytes(whole.dtype()));
  for (int64_t n = 0; n < whole.outputs(); ++n) {
    for (int64_t k = 0; k < count; ++k) {
      SetElement(row.data(), whole.dtype(), k, whole.At(n, first + k));
    }
    part.SetRows(n, 1, row.data(), count);
  }
  return part;
}

}  // namespace conclave
