#include "kernels/rms_norm/rms_norm.h"

#include <cmath>
#include <string>
#include <vector>

#include "comm/base/reduction.h"
#include "gtest/gtest.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

constexpr float kEpsilon = 1e-5f;

std::vector<float> Weight(int64_t cols) {
  const OwnedRows row = OwnedRows::Random(1, cols, 99);
  return std::vector<float>(row.row(0), row.row(0) + cols);
}

TEST(RmsNorm, RefIsCloseToDouble) {
  const OwnedRows x = OwnedRows::Random(2, 100, 1);
  const std::vector<float> weight = Weight(100);
  OwnedRows y(2, 100);
  RmsNormRef(x.view(), weight, kEpsilon, y.view());
  for (int64_t t = 0; t < 2; ++t) {
    double sum = 0;
    for (int64_t k = 0; k < 100; ++k) sum += double{x.row(t)[k]} * double{x.row(t)[k]};
    for (int64_t k = 0; k < 100; ++k) {
      const double expected = x.row(t)[k] / std::sqrt(sum / 100 + kEpsilon) * weight[k];
      EXPECT_NEAR(y.row(t)[k], expected, 1e-6);
    }
  }
}

TEST(RmsNorm, BitEqualToRefOnEveryTargetAndWidth) {
  ForEachTarget([&](const std::string& target) {
    for (const int64_t cols : {1, 7, 8, 13, 64, 100, 127, 128, 200, 1000, 2048}) {
      const OwnedRows x = OwnedRows::Random(3, cols, 2, 5);
      const std::vector<float> weight = Weight(cols);
      OwnedRows expected(3, cols, 1), y(3, cols, 1);
      RmsNormRef(x.view(), weight, kEpsilon, expected.view());
      RmsNorm(x.view(), weight, kEpsilon, y.view());
      EXPECT_TRUE(y.BitEqual(expected)) << target << " " << cols;

      OwnedRows in_place = OwnedRows::Random(3, cols, 2, 5);
      RmsNorm(in_place.view(), weight, kEpsilon, in_place.view());
      for (int64_t t = 0; t < 3; ++t) {
        for (int64_t k = 0; k < cols; ++k) ASSERT_EQ(in_place.row(t)[k], expected.row(t)[k]);
      }
    }
  });
}

TEST(RmsNorm, AddThenNorm) {
  ForEachTarget([&](const std::string& target) {
    for (const int64_t cols : {5, 64, 100}) {
      OwnedRows x = OwnedRows::Random(2, cols, 3);
      const OwnedRows before = x, delta = OwnedRows::Random(2, cols, 4);
      const std::vector<float> weight = Weight(cols);
      OwnedRows y(2, cols), sum(2, cols), expected(2, cols);
      AddRmsNorm(x.view(), delta.view(), weight, kEpsilon, y.view());
      for (int64_t i = 0; i < 2 * cols; ++i) sum.row(0)[i] = before.row(0)[i] + delta.row(0)[i];
      RmsNormRef(sum.view(), weight, kEpsilon, expected.view());
      EXPECT_TRUE(x.BitEqual(sum)) << target;
      EXPECT_TRUE(y.BitEqual(expected)) << target;
    }
  });
}

// A row cut over a tensor-parallel group: sums of the parts, added in the tree, give the whole
// row's result.
TEST(RmsNorm, PartsAreTheWhole) {
  ForEachTarget([&](const std::string& target) {
    for (const int64_t cols : {8, 40, 200, 1000, 2048}) {
      const OwnedRows x = OwnedRows::Random(4, cols, 5);
      const std::vector<float> weight = Weight(cols);
      OwnedRows expected(4, cols);
      RmsNormRef(x.view(), weight, kEpsilon, expected.view());
      for (const int ways : {1, 2, 4, 8}) {
        const int64_t width = cols / ways;
        const auto part = [&](int r) { return ConstRows{x.row(0) + r * width, 4, width, cols}; };
        std::vector<float> sums[8];
        for (int r = 0; r < ways; ++r) {
          sums[r].resize(4);
          SumSquares(part(r), kReductionSlices / ways, absl::MakeSpan(sums[r]));
        }
        std::vector<float> total(4);
        for (int t = 0; t < 4; ++t) {
          float values[8];
          for (int r = 0; r < ways; ++r) values[r] = sums[r][t];
          total[t] = TreeSum(values, ways);
        }
        OwnedRows y(4, cols);
        for (int r = 0; r < ways; ++r) {
          const absl::Span<const float> w(weight.data() + r * width, width);
          ScaleByRms(part(r), total, cols, w, kEpsilon, {y.row(0) + r * width, 4, width, cols});
        }
        EXPECT_TRUE(y.BitEqual(expected)) << target << " cols " << cols << " ways " << ways;
      }
    }
  });
}

TEST(RmsNormDeathTest, ShapesMustAgree) {
  OwnedRows x(1, 8), y(1, 8);
  EXPECT_DEATH(RmsNorm(x.view(), Weight(7), kEpsilon, y.view()), "weight.size");
  std::vector<float> sums(1);
  EXPECT_DEATH(SumSquares(x.view(), 3, absl::MakeSpan(sums)), "3 slices");
}

}  // namespace
}  // namespace conclave
