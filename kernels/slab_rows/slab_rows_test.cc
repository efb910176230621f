#include "kernels/slab_rows/slab_rows.h"

#include <array>
#include <vector>

#include "comm/base/dtype.h"
#include "comm/base/rng.h"
#include "comm/device/cuda_device.h"
#include "comm/device/cuda_memory.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

#if CONCLAVE_CUDA

// Device copy of host values; CHECKs by gtest.
template <typename T>
DeviceBuffer Upload(const std::vector<T>& values) {
  const int64_t bytes = static_cast<int64_t>(values.size() * sizeof(T));
  DeviceBuffer buffer = DeviceBuffer::Create(bytes).value();
  EXPECT_TRUE(CopyToDevice(buffer.data(), values.data(), bytes, nullptr).ok());
  return buffer;
}

std::vector<uint16_t> Download(const DeviceBuffer& buffer) {
  std::vector<uint16_t> values(buffer.bytes() / 2);
  EXPECT_TRUE(CopyToHost(values.data(), buffer.data(), buffer.bytes(), nullptr).ok());
  EXPECT_TRUE(SynchronizeCudaDevice().ok());
  return values;
}

TEST(SlabRowsTest, SumsSlabsInOrderAndRoundsOnce) {
  if (const absl::Status gpu = CheckCudaDevice(0); !gpu.ok()) GTEST_SKIP() << gpu.message();
  Rng rng(1);
  for (const auto& [rows, columns, stride, count] : std::vector<std::array<int64_t, 4>>{
           {1, 8, 8, 1}, {3, 80, 96, 4}, {64, 5120, 5120, 2}, {7, 264, 264, 16}}) {
    std::vector<float> slabs(count * rows * stride);
    for (float& x : slabs) x = static_cast<float>(rng.Uniform() * 2 - 1);
    const DeviceBuffer device = Upload(slabs);
    const DeviceBuffer out = Upload(std::vector<uint16_t>(rows * stride, 0xffff));
    const SumSlabsArgs args = {
        device.as<float>(), static_cast<int32_t>(count), rows * stride, rows, columns, stride,
        out.data()};
    ASSERT_TRUE(SumSlabs(args, nullptr, false).ok());
    const std::vector<uint16_t> got = Download(out);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < stride; ++c) {
        float sum = 0;
        for (int64_t s = 0; s < count; ++s) sum += slabs[(s * rows + r) * stride + c];
        const uint16_t want = c < columns ? FloatToBf16(sum) : 0xffff;
        ASSERT_EQ(got[r * stride + c], want) << r << ", " << c;
      }
    }
  }
}

TEST(SlabRowsTest, GathersRows) {
  if (const absl::Status gpu = CheckCudaDevice(0); !gpu.ok()) GTEST_SKIP() << gpu.message();
  Rng rng(2);
  constexpr int64_t kColumns = 72;
  std::vector<uint16_t> x(50 * kColumns);
  for (uint16_t& value : x) value = static_cast<uint16_t>(rng.Below(1 << 16));
  std::vector<int32_t> index(33);
  for (int32_t& i : index) i = static_cast<int32_t>(rng.Below(50));
  const DeviceBuffer from = Upload(x);
  const DeviceBuffer at = Upload(index);
  const DeviceBuffer out = Upload(std::vector<uint16_t>(index.size() * kColumns, 0xffff));
  const GatherBf16Args args = {from.data(), at.as<int32_t>(), static_cast<int64_t>(index.size()),
                               kColumns, out.data()};
  ASSERT_TRUE(GatherBf16(args, nullptr, false).ok());
  const std::vector<uint16_t> got = Download(out);
  for (size_t r = 0; r < index.size(); ++r) {
    for (int64_t c = 0; c < kColumns; ++c) {
      ASSERT_EQ(got[r * kColumns + c], x[index[r] * kColumns + c]) << r << ", " << c;
    }
  }
}

TEST(SlabRowsTest, RefusesColumnsThatAreNotWholeChunks) {
  SumSlabsArgs sum;
  sum.rows = 1;
  sum.columns = 12;
  EXPECT_EQ(SumSlabs(sum, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
  GatherBf16Args gather;
  gather.rows = 1;
  gather.columns = 4;
  EXPECT_EQ(GatherBf16(gather, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
}

#else

TEST(SlabRowsTest, NeedsCuda) { GTEST_SKIP() << CheckCudaDevice(0).message(); }

#endif

}  // namespace
}  // namespace conclave
