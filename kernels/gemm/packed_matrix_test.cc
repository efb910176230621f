#include "kernels/gemm/packed_matrix.h"

#include <cstdint>
#include <utility>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

// Element (n, k) is recognisable, and exact in every dtype.
float Mark(int64_t n, int64_t k) { return static_cast<float>((n * 5 + k * 3) % 120) - 60.0f; }

TEST(PackedMatrix, LayoutIsPanelsOfSixteenInputMajor) {
  PackedMatrix matrix(20, 3, Dtype::kF32, 8);
  std::vector<float> rows(20 * 3);
  for (int i = 0; i < 60; ++i) rows[i] = static_cast<float>(i);
  matrix.SetRows(0, 20, rows.data(), 3);
  EXPECT_EQ(matrix.panels(), 2);
  EXPECT_EQ(matrix.bytes(), 2 * 16 * 3 * 4);
  const float* data = static_cast<const float*>(matrix.panel(0));
  for (int64_t n = 0; n < 20; ++n) {
    for (int64_t k = 0; k < 3; ++k) EXPECT_EQ(data[((n / 16) * 3 + k) * 16 + n % 16], n * 3 + k);
  }
  // Padding stays zero.
  EXPECT_EQ(static_cast<const float*>(matrix.panel(1))[4], 0.0f);
}

TEST(PackedMatrix, RowsInAnyPiecesAndStrides) {
  constexpr int64_t kOutputs = 53, kInputs = 37, kStride = 41;
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
    PackedMatrix matrix(kOutputs, kInputs, dtype, 4);
    std::vector<float> floats(kOutputs * kStride);
    std::vector<uint16_t> halves(kOutputs * kStride);
    for (int64_t n = 0; n < kOutputs; ++n) {
      for (int64_t k = 0; k < kInputs; ++k) {
        const int64_t i = n * kStride + k;
        floats[i] = Mark(n, k);
        halves[i] = dtype == Dtype::kF16 ? FloatToF16(floats[i]) : FloatToBf16(floats[i]);
      }
    }
    int64_t first = 0;
    for (const int64_t count : {1, 20, 0, 31, 1}) {
      const int64_t begin = first * kStride;
      const void* source = dtype == Dtype::kF32 ? static_cast<const void*>(&floats[begin])
                                                : static_cast<const void*>(&halves[begin]);
      matrix.SetRows(first, count, source, kStride);
      first += count;
    }
    ASSERT_EQ(first, kOutputs);
    for (int64_t n = 0; n < kOutputs; ++n) {
      for (int64_t k = 0; k < kInputs; ++k) ASSERT_EQ(matrix.At(n, k), Mark(n, k)) << n << "," << k;
    }
  }
}

TEST(PackedMatrix, SmallAndLargeAreAlignedAndZero) {
  for (const int64_t inputs :
       {1, 100, 40000}) {  // 40000 * 64 * 2 bytes is mapped, the others are not
    PackedMatrix matrix(64, inputs, Dtype::kBf16, 8);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(matrix.panel(0)) % 64, 0u);
    for (int64_t n = 0; n < 64; n += 9) EXPECT_EQ(matrix.At(n, inputs - 1), 0.0f);
  }
}

TEST(PackedMatrix, MovesItsMemory) {
  PackedMatrix a(64, 40000, Dtype::kBf16, 2);
  const void* memory = a.panel(0);
  PackedMatrix b(std::move(a));
  EXPECT_EQ(b.panel(0), memory);
  EXPECT_EQ(b.slices(), 2);
  EXPECT_EQ(a.bytes(), 0);
  PackedMatrix c(16, 4, Dtype::kF32, 8);
  c = std::move(b);
  EXPECT_EQ(c.panel(0), memory);
  EXPECT_EQ(c.inputs(), 40000);
}

TEST(PackedMatrix, EmptyIsLegal) {
  PackedMatrix none;
  EXPECT_EQ(none.bytes(), 0);
  PackedMatrix flat(16, 0, Dtype::kF32, 8);
  EXPECT_EQ(flat.panels(), 1);
  EXPECT_EQ(flat.bytes(), 0);
}

TEST(PackedMatrixDeathTest, RefusesWhatItCannotHold) {
  EXPECT_DEATH(PackedMatrix(16, 16, Dtype::kI32, 8), "dtype int32");
  EXPECT_DEATH(PackedMatrix(16, 16, Dtype::kF32, 3), "3 slices");
  PackedMatrix matrix(16, 16, Dtype::kF32, 8);
  const std::vector<float> rows(32 * 16);
  EXPECT_DEATH(matrix.SetRows(1, 16, rows.data(), 16), "rows \\[1, 17\\) of 16");
}

}  // namespace
}  // namespace conclave
