// The kernels against the double reference: every kind of tile and epilogue, odd shapes, groups
// from none to all rows, memory around the result untouched.
#include "kernels/tile_gemm/tile_gemm.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "gtest/gtest.h"
#include "kernels/sbi_gemm/sbi_test_kit.h"

namespace conclave {
namespace {

constexpr TileKind kKinds[] = {TileKind::kWide, TileKind::kSquare, TileKind::kNarrow};
constexpr TileEpilogue kEpilogues[] = {TileEpilogue::kBf16, TileEpilogue::kFp32,
                                       TileEpilogue::kFp32Add, TileEpilogue::kSwiGlu};
constexpr int64_t kProductsMax = 3 << 20;  // up to there every value is checked
constexpr int kSamples = 800;

bool IsFull(TileEpilogue epilogue) {
  return epilogue == TileEpilogue::kFp32 || epilogue == TileEpilogue::kFp32Add;
}

class TileGemmTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::Status device = CheckCudaDevice(0); !device.ok()) {
      GTEST_SKIP() << device.message();
    }
  }
  Rng rng_{31};
};

// One product: operands on both sides, and what to expect of some or all values.
class Case {
 public:
  struct Size {
    int outputs, inputs, rows;
    std::vector<int32_t> group_first;  // empty: dense
  };
  Case(Rng& rng, const HostWeights& weights, const Size& size)
      : size_(size), device_tiles_(weights.tiles) {
    args_.weights = weights.view;
    args_.rows = size.rows;
    args_.x_stride = (size.inputs + 7) / 8 * 8 + 8;
    x_ = RandomBf16(rng, size.rows * args_.x_stride, 1);
    // What stands past the inputs, and in rows of no group, must not matter.
    for (int r = 0; r < size.rows; ++r) {
      const bool unused = !size.group_first.empty() &&
                          (r < size.group_first.front() || r >= size.group_first.back());
      const int from = unused ? 0 : size.inputs;
      std::fill(x_.begin() + r * args_.x_stride + from, x_.begin() + (r + 1) * args_.x_stride,
                0xffff);
    }
    device_x_ = std::make_unique<DeviceArray<uint16_t>>(x_);
    bias_ = RandomFloats(rng, size.outputs * weights.view.matrices, 2);
    device_bias_ = std::make_unique<DeviceArray<float>>(bias_);
    if (!size.group_first.empty()) {
      device_groups_ = std::make_unique<DeviceArray<int32_t>>(size.group_first);
    }
  }

  // Computes what to expect of `epilogue`.
  void Expect(Rng& rng, TileEpilogue epilogue, bool biased) {
    args_.epilogue = epilogue;
    args_.x = x_.data();
    args_.bias = biased ? bias_.data() : nullptr;
    args_.group_first = size_.group_first.empty() ? nullptr : size_.group_first.data();
    const int columns = TileOutColumns(args_);
    args_.out_stride = (columns + 7) / 8 * 8 + 8;
    initial_.assign((size_.rows + 1) * args_.out_stride * (IsFull(epilogue) ? 4 : 2), 0xff);
    if (epilogue == TileEpilogue::kFp32Add) {
      const std::vector<float> residual = RandomFloats(rng, size_.rows * args_.out_stride, 9);
      std::copy_n(reinterpret_cast<const uint8_t*>(residual.data()), residual.size() * 4,
                  initial_.begin());
    }
    args_.out = initial_.data();
    const int first = size_.group_first.empty() ? 0 : size_.group_first.front();
    const int end = size_.group_first.empty() ? size_.rows : size_.group_first.back();
    places_.clear();
    expected_.clear();
    const int64_t count = int64_t{end - first} * columns;
    if (count == 0) return;
    const bool all = count * size_.inputs <= kProductsMax;
    for (int64_t i = 0; i < (all ? count : kSamples); ++i) {
      const int64_t at = all ? i : static_cast<int64_t>(rng.Below(count));
      const int64_t row = first + at / columns, column = at % columns;
      places_.push_back(row * args_.out_stride + column);
      expected_.push_back(TileGemmRefAt(args_, row, column));
    }
  }

  // Runs it under `config` and compares.
  void Run(const TileConfig& config, CudaStream stream = nullptr) {
    DeviceArray<uint8_t> out(initial_);
    TileGemmArgs args = args_;
    args.weights.data = device_tiles_.get();
    args.x = device_x_->get();
    if (args.bias != nullptr) args.bias = device_bias_->get();
    if (args.group_first != nullptr) args.group_first = device_groups_->get();
    args.out = out.get();
    args.stream = stream;
    const absl::Status status = TileGemm(args, config);
    ASSERT_TRUE(status.ok()) << Name(config) << ": " << status;
    SynchronizeDevice();
    const std::vector<uint8_t> got = out.Read();
    CompareValues(got, config);
    CompareSurroundings(got, config);
  }

  TileGemmShape shape() const {
    return {size_.outputs, size_.inputs, size_.rows,
            size_.group_first.empty() ? 0 : args_.weights.matrices};
  }

 private:
  std::string Name(const TileConfig& config) const {
    return absl::StrCat(size_.rows, " x ", size_.outputs, " x ", size_.inputs, " groups ",
                        std::max<int>(0, static_cast<int>(size_.group_first.size()) - 1), " kind ",
                        static_cast<int>(config.kind), " epilogue ",
                        static_cast<int>(args_.epilogue), " bias ", args_.bias != nullptr,
                        " blocks ", config.blocks);
  }

  double ValueAt(const std::vector<uint8_t>& bytes, int64_t place) const {
    if (IsFull(args_.epilogue)) return reinterpret_cast<const float*>(bytes.data())[place];
    return Bf16ToFloat(reinterpret_cast<const uint16_t*>(bytes.data())[place]);
  }

  void CompareValues(const std::vector<uint8_t>& got, const TileConfig& config) {
    double difference = 0, norm = 1e-30, worst = -1;
    int64_t worst_place = 0;
    for (size_t i = 0; i < places_.size(); ++i) {
      const double value = ValueAt(got, places_[i]);
      const double d = std::isfinite(value) ? std::fabs(value - expected_[i]) : 1e30;
      if (d > worst) {
        worst = d;
        worst_place = places_[i];
      }
      difference += d * d;
      norm += expected_[i] * expected_[i];
    }
    const double bound = IsFull(args_.epilogue) ? 2e-5 : 4e-3;
    EXPECT_LE(std::sqrt(difference / norm), bound)
        << Name(config) << ": worst at row " << worst_place / args_.out_stride << " column "
        << worst_place % args_.out_stride << ": " << ValueAt(got, worst_place);
  }

  void CompareSurroundings(const std::vector<uint8_t>& got, const TileConfig& config) {
    const int bytes = IsFull(args_.epilogue) ? 4 : 2;
    const int first = size_.group_first.empty() ? 0 : size_.group_first.front();
    const int end = size_.group_first.empty() ? size_.rows : size_.group_first.back();
    for (int64_t row = 0; row <= size_.rows; ++row) {
      const bool inside = row >= first && row < end;
      const int64_t from = (row * args_.out_stride + (inside ? TileOutColumns(args_) : 0)) * bytes;
      const int64_t to = (row + 1) * args_.out_stride * bytes;
      if (!std::equal(got.begin() + from, got.begin() + to, initial_.begin() + from)) {
        ADD_FAILURE() << Name(config) << ": wrote outside the result in row " << row;
        return;
      }
    }
  }

  Size size_;
  TileGemmArgs args_;
  DeviceArray<uint8_t> device_tiles_;
  std::vector<uint16_t> x_;
  std::vector<float> bias_;
  std::unique_ptr<DeviceArray<uint16_t>> device_x_;
  std::unique_ptr<DeviceArray<float>> device_bias_;
  std::unique_ptr<DeviceArray<int32_t>> device_groups_;
  std::vector<uint8_t> initial_;
  std::vector<int64_t> places_;
  std::vector<double> expected_;
};

// All kinds of tile on one case.
void RunKinds(Case& c, int sm_count) {
  for (const TileKind kind : kKinds) {
    TileGemmShape shape = c.shape();
    shape.sm_count = sm_count;
    c.Run(MakeTileConfig(shape, kind));
    if (::testing::Test::HasFailure()) return;
  }
}

TEST_F(TileGemmTest, DenseOfOddShapes) {
  for (const int outputs : {80, 257, 1536}) {
    for (const int inputs : {64, 80, 96, 768, 2048}) {
      const HostWeights weights = RandomWeights(rng_, outputs, inputs, 1);
      for (const int rows : {1, 63, 65, 127, 200, 1000}) {
        Case c(rng_, weights, {outputs, inputs, rows, {}});
        for (const TileEpilogue epilogue : kEpilogues) {
          if (epilogue == TileEpilogue::kSwiGlu && outputs % 16 != 0) continue;
          c.Expect(rng_, epilogue, rows % 2 == 0);
          RunKinds(c, 132);
          if (HasFailure()) return;
        }
      }
    }
  }
}

TEST_F(TileGemmTest, BlocksWithManyTiles) {
  const HostWeights weights = RandomWeights(rng_, 784, 320, 1);
  Case c(rng_, weights, {784, 320, 2300, {}});
  for (const TileEpilogue epilogue : kEpilogues) {
    c.Expect(rng_, epilogue, false);
    for (const int blocks : {1, 3, 7}) {
      RunKinds(c, blocks);
      if (HasFailure()) return;
    }
  }
}

// Sizes of groups to their first rows.
std::vector<int32_t> Firsts(int first, const std::vector<int>& sizes) {
  std::vector<int32_t> firsts = {first};
  for (const int size : sizes) firsts.push_back(firsts.back() + size);
  return firsts;
}

TEST_F(TileGemmTest, GroupsOfAllSizes) {
  constexpr int kMatrices = 9;
  for (const auto& [outputs, inputs] : {std::pair{96, 80}, {257, 96}, {1536, 256}, {512, 768}}) {
    const HostWeights weights = RandomWeights(rng_, outputs, inputs, kMatrices);
    const std::vector<std::vector<int32_t>> tables = {
        Firsts(0, {1, 0, 0, 65, 127, 3, 0, 130, 17}),
        Firsts(0, {0, 0, 0, 0, 700, 0, 0, 0, 0}),
        Firsts(5, {64, 128, 129, 1, 1, 256, 63, 191, 0}),
        Firsts(0, {0, 0, 0, 0, 0, 0, 0, 0, 0}),
        Firsts(3, {0, 1, 2, 3, 4, 5, 6, 7, 8}),
        Firsts(0, {2500, 1, 0, 0, 0, 0, 0, 0, 300})};
    for (const std::vector<int32_t>& firsts : tables) {
      Case c(rng_, weights, {outputs, inputs, firsts.back() + 70, firsts});
      for (const TileEpilogue epilogue : kEpilogues) {
        if (epilogue == TileEpilogue::kSwiGlu && outputs % 16 != 0) continue;
        c.Expect(rng_, epilogue, inputs == 80);
        RunKinds(c, 132);
        RunKinds(c, 5);
        if (HasFailure()) return;
      }
    }
  }
}

TEST_F(TileGemmTest, AsManyGroupsAsThereMayBe) {
  const HostWeights weights = RandomWeights(rng_, 64, 64, kTileMatricesMax);
  std::vector<int> sizes(kTileMatricesMax);
  for (int& size : sizes) size = static_cast<int>(rng_.Below(5) * rng_.Below(12));
  const std::vector<int32_t> firsts = Firsts(0, sizes);
  Case c(rng_, weights, {64, 64, firsts.back(), firsts});
  for (const TileEpilogue epilogue : kEpilogues) {
    c.Expect(rng_, epilogue, true);
    RunKinds(c, 132);
  }
}

// A chain of two in a graph, each the other's dependent, several times over: out = (x W1^T) W2^T.
TEST_F(TileGemmTest, DependentLaunchesInAGraph) {
  constexpr int kRows = 300, kSize = 512;
  const HostWeights first = RandomWeights(rng_, kSize, kSize, 1);
  const HostWeights second = RandomWeights(rng_, kSize, kSize, 1);
  const std::vector<uint16_t> x = RandomBf16(rng_, kRows * kSize, 0.1f);
  std::vector<uint16_t> middle(kRows * kSize), out(kRows * kSize);
  TileGemmArgs one = {.weights = first.view, .x = x.data(), .x_stride = kSize, .rows = kRows};
  one.out = middle.data();
  one.out_stride = kSize;
  TileGemmRef(one);
  TileGemmArgs two = {.weights = second.view, .x = middle.data(), .x_stride = kSize, .rows = kRows};
  two.out = out.data();
  two.out_stride = kSize;
  TileGemmRef(two);

  DeviceArray<uint8_t> tiles_one(first.tiles), tiles_two(second.tiles);
  DeviceArray<uint16_t> device_x(x), device_middle(x.size()), device_out(x.size());
  one.weights.data = tiles_one.get();
  two.weights.data = tiles_two.get();
  one.x = device_x.get();
  one.out = device_middle.get();
  two.x = device_middle.get();
  two.out = device_out.get();
  one.dependent = two.dependent = true;
  const auto stream = CudaStreamOwner::Create();
  ASSERT_TRUE(stream.ok()) << stream.status();
  one.stream = two.stream = stream->get();
  const TileConfig config = ChooseTileConfig({kSize, kSize, kRows}).value();
  const auto graph = CudaGraph::Capture(stream->get(), [&] {
    for (int i = 0; i < 4; ++i) {
      if (absl::Status status = TileGemm(one, config); !status.ok()) return status;
      if (absl::Status status = TileGemm(two, config); !status.ok()) return status;
    }
    return absl::OkStatus();
  });
  ASSERT_TRUE(graph.ok()) << graph.status();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(graph->Launch(stream->get()).ok());
  ASSERT_TRUE(stream->Synchronize().ok());
  const std::vector<uint16_t> got = device_out.Read();
  double difference = 0, norm = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    difference += std::pow(Bf16ToFloat(got[i]) - Bf16ToFloat(out[i]), 2);
    norm += std::pow(Bf16ToFloat(out[i]), 2);
  }
  EXPECT_LE(std::sqrt(difference / norm), 5e-3);
}

TEST_F(TileGemmTest, RefusesWhatDoesNotFit) {
  DeviceArray<uint8_t> memory(1 << 16);
  TileGemmArgs good = {.x = memory.data(), .x_stride = 64, .rows = 4};
  good.weights = {.data = memory.data(), .outputs = 64, .inputs = 64};
  good.out = memory.data();
  good.out_stride = 64;
  const TileConfig config = ChooseTileConfig({64, 64, 4}).value();
  const auto refused = [&](auto change) {
    TileGemmArgs args = good;
    change(args);
    return TileGemm(args, config).code() == absl::StatusCode::kInvalidArgument;
  };
  EXPECT_TRUE(refused([](TileGemmArgs& a) { a.x_stride = 60; }));
  EXPECT_TRUE(refused([](TileGemmArgs& a) { a.x_stride = 68; }));
  EXPECT_TRUE(refused([](TileGemmArgs& a) { a.out_stride = 56; }));
  EXPECT_TRUE(refused([](TileGemmArgs& a) { a.weights.format = WeightFormat::kF16; }));
  EXPECT_TRUE(refused([](TileGemmArgs& a) { a.weights.matrices = 513; }));
  EXPECT_TRUE(refused([](TileGemmArgs& a) { a.x = static_cast<const char*>(a.x) + 2; }));
  EXPECT_TRUE(TileGemm({.rows = 0}, config).ok());
}

}  // namespace
}  // namespace conclave
