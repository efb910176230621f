#include "kernels/weight_pack/weight_pack.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "comm/base/rng.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "gtest/gtest.h"
#include "kernels/weight_pack/weight_pack_test_kit.h"
#include "kernels/weight_pack/weight_quant_ref.h"
#if CONCLAVE_CUDA
#include "kernels/weight_pack/dequant_probe.h"
#endif

namespace conclave {
namespace {

#if CONCLAVE_CUDA

class WeightPackTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::Status usable = CheckCudaDevice(0);
    if (!usable.ok()) GTEST_SKIP() << usable.message();
    ASSERT_TRUE(UseCudaDevice(0).ok());
    absl::StatusOr<CudaStreamOwner> stream = CudaStreamOwner::Create();
    ASSERT_TRUE(stream.ok());
    stream_ = *std::move(stream);
  }

  template <typename T>
  DeviceBuffer Upload(const std::vector<T>& values) {
    const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(T));
    DeviceBuffer buffer = Allocate(bytes);
    EXPECT_TRUE(CopyToDevice(buffer.data(), values.data(), bytes, stream_.get()).ok());
    EXPECT_TRUE(stream_.Synchronize().ok());
    return buffer;
  }
  DeviceBuffer Allocate(int64_t bytes) {
    absl::StatusOr<DeviceBuffer> buffer = DeviceBuffer::Create(bytes);
    EXPECT_TRUE(buffer.ok());
    return *std::move(buffer);
  }
  template <typename T>
  std::vector<T> Download(const void* from, int64_t count) {
    std::vector<T> values(count);
    EXPECT_TRUE(CopyToHost(values.data(), from, count * sizeof(T), stream_.get()).ok());
    EXPECT_TRUE(stream_.Synchronize().ok());
    return values;
  }

  CudaStreamOwner stream_;
};

struct PackCase {
  MatrixShape shape;
  RowPlacement placement = RowPlacement::kPlain;
  int64_t first = 0;
  int64_t count = 0;
  int64_t first_column = 0;
  int64_t columns = 0;
  int64_t source_stride = 0;
};

// The first byte that differs, and in how many.
::testing::AssertionResult SameBytes(const std::vector<uint8_t>& a, const std::vector<uint8_t>& b) {
  int64_t different = 0, first = -1;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i] == b[i]) continue;
    if (different++ == 0) first = static_cast<int64_t>(i);
  }
  if (different == 0) return ::testing::AssertionSuccess();
  return ::testing::AssertionFailure()
         << different << " of " << a.size() << " bytes differ, first " << first << ": "
         << int{a[first]} << " not " << int{b[first]};
}

TEST_F(WeightPackTest, TheDeviceWritesTheBytesOfTheReference) {
  Rng rng(1);
  const PackCase cases[] = {
      {{48, 256, 2}, RowPlacement::kPlain, 0, 48, 0, 256, 0},
      {{45, 1000, 3}, RowPlacement::kPlain, 3, 41, 0, 1000, 0},
      {{33, 67, 1}, RowPlacement::kPlain, 5, 28, 0, 67, 0},  // odd rows
      {{64, 768, 2}, RowPlacement::kPlain, 1, 60, 256, 256, 770},
      {{64, 700, 2}, RowPlacement::kPlain, 16, 31, 256, 444, 703},
      {{64, 320, 2}, RowPlacement::kGate, 3, 27, 0, 320, 0},
      {{64, 320, 2}, RowPlacement::kUp, 5, 20, 0, 320, 0},
      {{16, 3, 1}, RowPlacement::kPlain, 0, 16, 0, 3, 0},
  };
  for (const FormatCase c : AllCases()) {
    for (const Dtype dtype : {Dtype::kBf16, Dtype::kF16, Dtype::kF32}) {
      for (const PackCase& p : cases) {
        SCOPED_TRACE(CaseName(c) + " from " + std::string(DtypeName(dtype)) + " case " +
                     std::to_string(&p - cases));
        WeightView view = MakeView(c, p.shape);
        std::vector<uint8_t> expected(view.matrix_bytes * view.matrices);
        for (uint8_t& byte : expected) byte = static_cast<uint8_t>(rng.Next());
        const DeviceBuffer tiles = Upload(expected);
        const int64_t stride = p.source_stride == 0 ? p.columns : p.source_stride;
        const SourceRows source = RandomSource(rng, dtype, p.count * stride);
        const DeviceBuffer rows = Upload(source.bytes);
        PackRowsArgs args;
        args.out = view;
        args.matrix = view.matrices - 1;
        args.placement = p.placement;
        args.first = p.first;
        args.count = p.count;
        args.dtype = dtype;
        args.first_column = p.first_column;
        args.columns = p.columns;
        args.source_stride = p.source_stride;
        args.stream = stream_.get();
        PackRowsArgs host = args;
        host.out.data = expected.data();
        host.source = source.bytes.data();
        ASSERT_TRUE(PackRowsRef(host).ok());
        args.out.data = tiles.data();
        args.source = rows.data();
        const absl::Status status = PackRows(args);
        ASSERT_TRUE(status.ok()) << status;
        ASSERT_TRUE(SameBytes(
            Download<uint8_t>(tiles.data(), static_cast<int64_t>(expected.size())), expected));
      }
    }
  }
}

TEST_F(WeightPackTest, ZeroMatrixClearsOneMatrix) {
  WeightView view = MakeView({WeightFormat::kInt4, 64}, {17, 65, 3});
  std::vector<uint8_t> expected(view.matrix_bytes * 3, 0xff);
  const DeviceBuffer tiles = Upload(expected);
  view.data = tiles.data();
  ASSERT_TRUE(ZeroMatrix(view, 1, stream_.get()).ok());
  const int64_t used = view.output_tiles() * RowGroupBytes(view);
  std::fill_n(expected.begin() + view.matrix_bytes, used, 0);
  EXPECT_TRUE(
      SameBytes(Download<uint8_t>(tiles.data(), static_cast<int64_t>(expected.size())), expected));
}

// A tile of random codes, all of them possible, and random scales.
std::vector<uint8_t> RandomTile(Rng& rng, FormatCase c) {
  std::vector<uint8_t> tile(TileBytes(c.format, c.group));
  for (int row = 0; row < kTileOutputs; ++row) {
    for (int column = 0; column < kTileInputs; ++column) {
      uint32_t code = static_cast<uint32_t>(rng.Below(1u << CodeBits(c.format)));
      if (c.format == WeightFormat::kFp8 && (code & 0x7f) == 0x7f) code -= 1;
      const CodePlace place = PlaceOf(c.format, row, column);
      uint32_t word;
      std::memcpy(&word, &tile[place.word], 4);
      word |= SpreadCode(c.format, place.pair, place.second, code);
      std::memcpy(&tile[place.word], &word, 4);
    }
    for (int s = 0; s < ScaleGroups(c.format, c.group); ++s) {
      const float scale = static_cast<float>(rng.Uniform()) + 0.5f;
      uint32_t bits;
      std::memcpy(&bits, &scale, 4);
      if (ScaleBytes(c.format) == 2) bits >>= 16;
      if (ScaleBytes(c.format) == 1) {
        bits = 27 + static_cast<uint32_t>(rng.Below(kMxfp4ScaleMax - 26));
      }
      std::memcpy(&tile[ScaleOffset(c.format, c.group, row, s)], &bits, ScaleBytes(c.format));
    }
  }
  return tile;
}

TEST_F(WeightPackTest, FragmentsAndScalesAreThoseOfTheReference) {
  Rng rng(2);
  for (const FormatCase c : QuantCases()) {
    for (int trial = 0; trial < 3; ++trial) {
      SCOPED_TRACE(CaseName(c));
      const std::vector<uint8_t> bytes = RandomTile(rng, c);
      WeightView view = MakeView(c, {kTileOutputs, kTileInputs});
      view.data = bytes.data();
      const int groups = c.format == WeightFormat::kMxfp4 ? 1 : ScaleGroups(c.format, c.group);
      const DeviceBuffer tile = Upload(bytes);
      const DeviceBuffer fragments = Upload(std::vector<uint32_t>(3 * 4 * 32 * 4, ~0u));
      const DeviceBuffer row_scales = Upload(std::vector<float>(16 * groups, NAN));
      const DeviceBuffer lane_scales = Upload(std::vector<float>(32 * groups * 2, NAN));
      const DequantProbe probe = {c.format,
                                  c.group,
                                  tile.data(),
                                  fragments.as<uint32_t>(),
                                  row_scales.as<float>(),
                                  lane_scales.as<float>(),
                                  stream_.get()};
      const absl::Status status = ProbeDequant(probe);
      ASSERT_TRUE(status.ok()) << status;
      const auto a = Download<uint32_t>(fragments.data(), 3 * 4 * 32 * 4);
      for (size_t i = 0; i < a.size(); ++i) {
        const int part = i % 4, lane = i / 4 % 32, step = i / 128 % 4;
        const int row = lane / 4 + (part % 2) * 8;
        const int column = step * 16 + (part / 2) * 8 + lane % 4 * 2;
        ASSERT_EQ(Bf16ToFloat(a[i] & 0xffff), FragmentAt(view, 0, row, column))
            << i << ": row " << row << " column " << column;
        ASSERT_EQ(Bf16ToFloat(a[i] >> 16), FragmentAt(view, 0, row, column + 1))
            << i << ": row " << row << " column " << column + 1;
      }
      const auto by_row = Download<float>(row_scales.data(), 16 * groups);
      for (int i = 0; i < 16 * groups; ++i) {
        ASSERT_EQ(by_row[i], RowScaleAt(view, 0, i / groups, i % groups * 32)) << i;
      }
      const auto by_lane = Download<float>(lane_scales.data(), 32 * groups * 2);
      for (int i = 0; i < 32 * groups * 2; ++i) {
        const int row = i / (2 * groups) / 4 + i % 2 * 8;
        ASSERT_EQ(by_lane[i], RowScaleAt(view, 0, row, i / 2 % groups * 32)) << i;
      }
    }
  }
}

#else

TEST(WeightPackTest, NeedsCuda) { GTEST_SKIP() << CheckCudaDevice(0).message(); }

#endif

}  // namespace
}  // namespace conclave
