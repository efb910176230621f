#include "comm/device/cuda_device.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(CudaDeviceTest, ListsDevicesOrSaysWhyThereAreNone) {
  const absl::StatusOr<std::vector<CudaDeviceInfo>> devices = ListCudaDevices();
  if (!devices.ok()) {
    EXPECT_EQ(devices.status().code(), absl::StatusCode::kUnavailable) << devices.status();
    EXPECT_THAT(std::string(devices.status().message()), HasSubstr("--device cpu"));
    return;
  }
  ASSERT_FALSE(devices->empty());
  for (size_t i = 0; i < devices->size(); ++i) {
    const CudaDeviceInfo& info = (*devices)[i];
    EXPECT_EQ(info.index, static_cast<int>(i));
    EXPECT_FALSE(info.name.empty());
    EXPECT_GT(info.memory_bytes, int64_t{1} << 30);
    EXPECT_GE(info.sm_version, 50);
    EXPECT_GT(info.sm_count, 0);
  }
}

TEST(CudaDeviceTest, AnAbsentDeviceIsAnErrorThatNamesIt) {
  for (int index : {-1, 4096}) {
    const absl::Status status = CheckCudaDevice(index);
    const bool present = ListCudaDevices().ok();
    EXPECT_EQ(status.code(),
              present ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kUnavailable);
    if (present)
      EXPECT_THAT(std::string(status.message()), HasSubstr(absl::StrCat("cuda:", index)));
  }
}

TEST(CudaDeviceTest, AskingTwiceGivesTheSameAnswer) {
  const auto first = ListCudaDevices();
  const auto second = ListCudaDevices();
  EXPECT_EQ(first.status(), second.status());
  if (first.ok()) EXPECT_EQ(*first, *second);
}

TEST(CudaDeviceTest, EveryHopperOrNewerDeviceRunsAKernel) {
  const auto devices = ListCudaDevices();
  if (!devices.ok()) GTEST_SKIP() << "no CUDA device here: " << devices.status().message();
  for (const CudaDeviceInfo& info : *devices) {
    const absl::Status status = CheckCudaDevice(info.index);
    if (info.sm_version >= 90) {
      EXPECT_TRUE(status.ok()) << status;
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    }
  }
}

}  // namespace
}  // namespace conclave
