#include "kernels/exact/exact_gemm.h"

#include <functional>

#include "absl/strings/str_cat.h"
#include "comm/device/compute_pool.h"
#include "kernels/exact/exact_product.h"
#include "kernels/exact/exact_test_kit.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/matrix_test_kit.h"

namespace conclave {
namespace {

constexpr int64_t kGap = 3;

struct Case {
  int64_t outputs = 0, inputs = 0;
  Dtype dtype = Dtype::kBf16;
  int slices = 8;
};

// A matrix on both sides, and products with it.
class Product {
 public:
  explicit Product(const Case& c)
      : case_(c),
        packed_(RandomMatrix(c.outputs, c.inputs, c.dtype, 7 + c.outputs, c.slices)),
        tiles_(TilesOf(packed_)) {}

  // Compares what `launch` writes with Gemm. Rows of x and y have gaps of x_gap and kGap elements.
  void Check(int64_t rows, int64_t x_gap, float x_scale,
             const std::function<absl::Status(const ExactGemmArgs&)>& launch) {
    const int64_t x_stride = case_.inputs + x_gap, y_stride = case_.outputs + kGap;
    std::vector<float> x = UniformFloats(rows * x_stride, rows);
    for (float& v : x) v *= x_scale;
    std::vector<float> want = OnDevice<float>::Poison(rows * y_stride);
    Gemm({x.data(), rows, case_.inputs, x_stride}, packed_,
         {want.data(), rows, case_.outputs, y_stride}, pool_);
    const OnDevice<float> device_x(x), y = OnDevice<float>::Poisoned(rows * y_stride);
    ExactGemmArgs args;
    args.x = device_x.get();
    args.x_stride = x_stride;
    args.rows = rows;
    args.weights = tiles_.view;
    args.slices = case_.slices;
    args.y = y.get();
    args.y_stride = y_stride;
    ExpectOk(launch(args));
    ExpectSameBits(y.Read(), want,
                   absl::StrCat(DtypeName(case_.dtype), " [", case_.outputs, ", ", case_.inputs,
                                "] slices ", case_.slices, " rows ", rows, " gap ", x_gap));
  }

 private:
  Case case_;
  PackedMatrix packed_;
  DeviceTiles tiles_;
  ComputePool pool_{2};
};

ExactProduct ProductOf(const ExactGemmArgs& args) {
  ExactProduct product;
  product.x = args.x;
  product.x_stride = args.x_stride;
  product.x_aligned = args.x_stride % 4 == 0;
  product.weights = args.weights;
  product.slices = args.slices;
  product.y = args.y;
  product.y_stride = args.y_stride;
  product.columns = args.weights.outputs;
  product.entries = static_cast<int32_t>(args.rows);
  return product;
}

absl::Status RunDefault(const ExactGemmArgs& args) { return ExactGemm(args, nullptr); }
absl::Status RunTile(const ExactGemmArgs& args) {
  return LaunchExactTile(ProductOf(args), nullptr);
}

std::vector<Case> SmallCases() {
  std::vector<Case> cases;
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32}) {
    for (const int slices : {1, 2, 4, 8}) {
      for (const auto& [outputs, inputs] :
           std::vector<std::pair<int, int>>{{64, 64}, {80, 96}, {257, 80}, {33, 101}, {17, 5}}) {
        cases.push_back({outputs, inputs, dtype, slices});
      }
    }
  }
  return cases;
}

using ExactGemmTest = ExactTest;

TEST_F(ExactGemmTest, HasTheBitsOfTheCpu) {
  for (const Case& c : SmallCases()) {
    Product product(c);
    for (const int64_t rows : {1, 2, 3, 8, 13, 64, 200}) {
      for (const int64_t gap : {0, 1, 4}) product.Check(rows, gap, 1, RunDefault);
    }
  }
}

TEST_F(ExactGemmTest, EveryBlockOfRowsHasThem) {
  for (const Case& c : SmallCases()) {
    Product product(c);
    for (const int block : {1, 2, 4, 8, 16}) {
      product.Check(21, 0, 1, [block](const ExactGemmArgs& args) {
        return LaunchExactStream(ProductOf(args), block, nullptr);
      });
    }
  }
}

TEST_F(ExactGemmTest, TilesHaveThem) {
  for (const Case& c : SmallCases()) {
    Product product(c);
    for (const int64_t rows : {1, 127, 130}) {
      for (const int64_t gap : {0, 1}) product.Check(rows, gap, 1, RunTile);
    }
  }
}

TEST_F(ExactGemmTest, LargeShapesHaveThem) {
  for (const Dtype dtype : {Dtype::kBf16, Dtype::kF32}) {
    for (const Case& c : {Case{2560, 2048, dtype, 8}, Case{2048, 768, dtype, 8},
                          Case{2048, 512, dtype, 2}, Case{128, 2048, dtype, 8}}) {
      Product product(c);
      for (const int64_t rows : {1, 8, 600}) product.Check(rows, 0, 1, RunDefault);
      product.Check(200, 0, 1, RunTile);
    }
  }
}

TEST_F(ExactGemmTest, SubnormalSumsAreKept) {
  Product product({64, 80, Dtype::kF16, 8});
  product.Check(3, 0, 1e-38f, RunDefault);
  product.Check(130, 0, 1e-38f, RunTile);
}

TEST_F(ExactGemmTest, RefusesWhatItCannotDo) {
  const DeviceTiles tiles(HostTiles(16, 64, 1, Dtype::kBf16));
  ExactGemmArgs args;
  args.weights = tiles.view;
  args.x_stride = 64;
  args.y_stride = 16;
  ExpectOk(ExactGemm(args, nullptr));  // no rows
  args.slices = 3;
  EXPECT_EQ(ExactGemm(args, nullptr).code(), absl::StatusCode::kInvalidArgument);
  args.slices = 8;
  args.y_stride = 15;
  EXPECT_EQ(ExactGemm(args, nullptr).code(), absl::StatusCode::kInvalidArgument);
  args.y_stride = 16;
  args.weights.format = WeightFormat::kInt8;
  EXPECT_EQ(ExactGemm(args, nullptr).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
