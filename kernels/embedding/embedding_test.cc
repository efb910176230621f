#include "kernels/embedding/embedding.h"

#include <cmath>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/gemm/matrix_test_kit.h"

namespace conclave {
namespace {

TEST(Embed, RowsOfTheTableAndZerosOutside) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
    const PackedMatrix table = RandomMatrix(37, 50, dtype, 1);
    const std::vector<int32_t> ids = {100, 136, 117, 99, 137, 0, 117};  // rows 0, 36, 17, none...
    OwnedRows out = OwnedRows::Random(7, 50, 2, 3);
    Embed(table, 100, ids, out.view());
    const int64_t rows[] = {0, 36, 17, -1, -1, -1, 17};
    for (int i = 0; i < 7; ++i) {
      for (int64_t k = 0; k < 50; ++k) {
        ASSERT_EQ(out.row(i)[k], rows[i] < 0 ? 0.0f : table.At(rows[i], k)) << i << "," << k;
      }
    }
  }
}

TEST(Embed, SlicesOfTheVocabularySumToTheRow) {
  const PackedMatrix whole = RandomMatrix(40, 24, Dtype::kF32, 3);
  std::vector<float> elements(40 * 24);
  for (int64_t n = 0; n < 40; ++n) {
    for (int64_t k = 0; k < 24; ++k) elements[n * 24 + k] = whole.At(n, k);
  }
  PackedMatrix low(20, 24, Dtype::kF32, 8), high(20, 24, Dtype::kF32, 8);
  low.SetRows(0, 20, elements.data(), 24);
  high.SetRows(0, 20, elements.data() + 20 * 24, 24);
  const std::vector<int32_t> ids = {0, 19, 20, 39};
  OwnedRows a(4, 24), b(4, 24), expected(4, 24);
  Embed(low, 0, ids, a.view());
  Embed(high, 20, ids, b.view());
  Embed(whole, 0, ids, expected.view());
  for (int64_t i = 0; i < 4 * 24; ++i) EXPECT_EQ(a.row(0)[i] + b.row(0)[i], expected.row(0)[i]);
}

TEST(Embed, NegativeZeroBecomesZero) {
  PackedMatrix table(1, 1, Dtype::kF32, 8);
  const float value = -0.0f;
  table.SetRows(0, 1, &value, 1);
  OwnedRows out(1, 1);
  Embed(table, 0, {{0}}, out.view());
  EXPECT_FALSE(std::signbit(out.row(0)[0]));
}

}  // namespace
}  // namespace conclave
