#include "kernels/gemm/gemm.h"

#include <cmath>
#include <string>
#include <vector>

#include "comm/base/reduction.h"
#include "gtest/gtest.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

constexpr Dtype kDtypes[] = {Dtype::kF32, Dtype::kF16, Dtype::kBf16};

OwnedRows Reference(const OwnedRows& x, const PackedMatrix& weights, int64_t gap = 0) {
  OwnedRows y(x.view().rows, weights.outputs(), gap);
  GemmRef(x.view(), weights, y.view());
  return y;
}

TEST(Gemm, RefIsCloseToDouble) {
  const OwnedRows x = OwnedRows::Random(3, 100, 1);
  const PackedMatrix w = RandomMatrix(20, 100, Dtype::kBf16, 2);
  const OwnedRows y = Reference(x, w);
  for (int64_t t = 0; t < 3; ++t) {
    for (int64_t n = 0; n < 20; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < 100; ++k) sum += double{w.At(n, k)} * double{x.row(t)[k]};
      EXPECT_NEAR(y.row(t)[n], sum, 1e-5);
    }
  }
}

TEST(Gemm, BitEqualToRefOnEveryTarget) {
  struct Shape {
    int64_t tokens, outputs, inputs;
  };
  // Every block size, leftover panels, padding, slices that are uneven or empty, more than one
  // chunk of tokens.
  const Shape shapes[] = {{1, 64, 64},   {1, 100, 33}, {2, 80, 128}, {3, 16, 7},   {4, 17, 100},
                          {5, 160, 40},  {6, 48, 72},  {7, 33, 19},  {13, 64, 24}, {1, 1, 1},
                          {300, 20, 16}, {145, 65, 9}, {2, 5, 0}};
  ForEachTarget([&](const std::string& target) {
    for (const Dtype dtype : kDtypes) {
      for (const Shape& s : shapes) {
        for (const int slices : {8, 4, 2, 1}) {
          const OwnedRows x = OwnedRows::Random(s.tokens, s.inputs, 3, 2);
          const PackedMatrix w = RandomMatrix(s.outputs, s.inputs, dtype, 4, slices);
          const OwnedRows expected = Reference(x, w, 3);
          for (const int threads : {1, 3}) {
            ComputePool pool(threads);
            OwnedRows y(s.tokens, s.outputs, 3);
            Gemm(x.view(), w, y.view(), pool);
            ASSERT_TRUE(y.BitEqual(expected))
                << target << " " << DtypeName(dtype) << " " << s.tokens << "x" << s.outputs << "x"
                << s.inputs << " slices " << slices << " threads " << threads;
          }
        }
      }
    }
  });
}

TEST(Gemm, LargeEnoughToBeCutIntoTasksStillBitEqual) {
  const OwnedRows x = OwnedRows::Random(97, 512, 5);
  const PackedMatrix w = RandomMatrix(200, 512, Dtype::kBf16, 6);
  const OwnedRows expected = Reference(x, w);
  ForEachTarget([&](const std::string& target) {
    for (const int threads : {1, 2, 4}) {
      ComputePool pool(threads);
      OwnedRows y(97, 200);
      Gemm(x.view(), w, y.view(), pool);
      EXPECT_TRUE(y.BitEqual(expected)) << target << " " << threads;
    }
  });
}

TEST(Gemm, RowDoesNotDependOnItsBatch) {
  const OwnedRows x = OwnedRows::Random(40, 200, 7);
  const PackedMatrix w = RandomMatrix(70, 200, Dtype::kBf16, 8);
  ComputePool pool(2);
  OwnedRows all(40, 70);
  Gemm(x.view(), w, all.view(), pool);
  for (const int64_t count : {1, 2, 3, 7, 20}) {
    for (int64_t first = 0; first + count <= 40; first += count) {
      OwnedRows some(count, 70);
      Gemm({x.row(first), count, 200, x.view().stride}, w, some.view(), pool);
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t n = 0; n < 70; ++n) ASSERT_EQ(some.row(t)[n], all.row(first + t)[n]);
      }
    }
  }
}

// Tensor parallelism over the inputs: the parts, added in the tree, are the whole, bit for bit.
TEST(Gemm, PartsOfTheReductionAddUpToTheWhole) {
  ComputePool pool(2);
  ForEachTarget([&](const std::string& target) {
    for (const Dtype dtype : kDtypes) {
      for (const int64_t inputs : {8, 40, 72, 200, 256, 1000}) {
        const OwnedRows x = OwnedRows::Random(3, inputs, 9);
        const PackedMatrix whole = RandomMatrix(37, inputs, dtype, 10);
        const OwnedRows expected = Reference(x, whole);
        for (const int ways : {2, 4, 8}) {
          ASSERT_TRUE(ReductionDivides(inputs, ways));
          const int64_t width = inputs / ways;
          std::vector<OwnedRows> parts;
          for (int r = 0; r < ways; ++r) {
            const PackedMatrix part = ColumnSlice(whole, r * width, width, 8 / ways);
            parts.emplace_back(3, 37);
            Gemm({x.row(0) + r * width, 3, width, inputs}, part, parts.back().view(), pool);
          }
          for (int64_t i = 0; i < 3 * 37; ++i) {
            float values[8];
            for (int r = 0; r < ways; ++r) values[r] = parts[r].row(0)[i];
            ASSERT_EQ(TreeSum(values, ways), expected.row(0)[i])
                << target << " inputs " << inputs << " ways " << ways;
          }
        }
      }
    }
  });
}

TEST(Gemm, WidthsThatAreNotMultiplesOfEightSplitToo) {
  ComputePool pool(1);
  const struct {
    int64_t inputs;
    int ways;
  } cases[] = {{2, 2}, {10, 2}, {14, 2}, {126, 2}, {12, 4}, {36, 4}, {100, 4}, {996, 4}};
  for (const auto& c : cases) {
    const OwnedRows x = OwnedRows::Random(2, c.inputs, 11);
    const PackedMatrix whole = RandomMatrix(18, c.inputs, Dtype::kBf16, 12);
    const OwnedRows expected = Reference(x, whole);
    const int64_t width = c.inputs / c.ways;
    std::vector<OwnedRows> parts;
    for (int r = 0; r < c.ways; ++r) {
      const PackedMatrix part = ColumnSlice(whole, r * width, width, 8 / c.ways);
      parts.emplace_back(2, 18);
      Gemm({x.row(0) + r * width, 2, width, c.inputs}, part, parts.back().view(), pool);
    }
    for (int64_t i = 0; i < 2 * 18; ++i) {
      float values[8];
      for (int r = 0; r < c.ways; ++r) values[r] = parts[r].row(0)[i];
      ASSERT_EQ(TreeSum(values, c.ways), expected.row(0)[i]) << c.inputs << " by " << c.ways;
    }
  }
}

TEST(Gemm, PanelRangesTouchOnlyTheirOutputs) {
  const OwnedRows x = OwnedRows::Random(8, 50, 13);
  const PackedMatrix w = RandomMatrix(100, 50, Dtype::kF16, 14);
  const OwnedRows expected = Reference(x, w);
  OwnedRows y(8, 100);
  GemmPanels(x.view(), w, 2, 5, y.view());
  for (int64_t t = 0; t < 8; ++t) {
    for (int64_t n = 0; n < 100; ++n) {
      ASSERT_EQ(y.row(t)[n], n >= 32 && n < 80 ? expected.row(t)[n] : 0.0f) << t << "," << n;
    }
  }
  GemmPanels(x.view(), w, 0, 2, y.view());
  GemmPanels(x.view(), w, 5, 7, y.view());
  EXPECT_TRUE(y.BitEqual(expected));
}

TEST(Gemm, NoTokensIsLegal) {
  ComputePool pool(2);
  const PackedMatrix w = RandomMatrix(16, 16, Dtype::kF32, 1);
  Gemm({nullptr, 0, 16, 16}, w, {nullptr, 0, 16, 16}, pool);
}

TEST(GemmDeathTest, ShapesMustAgree) {
  ComputePool pool(1);
  const PackedMatrix w = RandomMatrix(16, 16, Dtype::kF32, 1);
  OwnedRows x(1, 15), y(1, 16);
  EXPECT_DEATH(Gemm(x.view(), w, y.view(), pool), "x.cols");
}

}  // namespace
}  // namespace conclave
