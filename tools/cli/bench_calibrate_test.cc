#include <atomic>
#include <string>

#include "absl/strings/match.h"
#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "tools/cli/calibration.h"
#include "tools/cli/commands.h"

namespace conclave {
namespace {

std::string Refusal(const BenchCalibrateOptions& options) {
  const std::atomic<bool> cancelled{false};
  const absl::Status status = RunBenchCalibrate(options, cancelled);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(BenchCalibrateTest, UnknownDevicesAreRefusedBeforeMeasuring) {
  for (const char* device : {"", "gpu", "cuda:", "cuda:-1", "cuda:x", "cpu:0"}) {
    EXPECT_TRUE(absl::StrContains(Refusal({.device = device}), "use cpu, cuda or cuda:N"));
  }
}

TEST(BenchCalibrateTest, WithoutAGpuItSaysWhatToRun) {
  const bool has_gpu = ListCudaDevices().ok();
  const std::string message = Refusal({.device = has_gpu ? "cuda:9999" : "cuda"});
  EXPECT_TRUE(absl::StrContains(message, "bench calibrate --device cuda:N")) << message;
  EXPECT_TRUE(absl::StrContains(message, "--device cpu")) << message;
}

TEST(BenchCalibrateTest, AnOutputThatCannotBeWrittenIsToldAtOnce) {
  for (const char* path : {"/no/such/folder/x.yaml", "/tmp"}) {
    EXPECT_TRUE(absl::StrContains(Refusal({.output_path = path}), path));
  }
}

TEST(CalibrationTest, ALinkHasLatencyAndBandwidth) {
  const absl::StatusOr<LinkCalibration> link = CalibrateNodeLink();
  ASSERT_TRUE(link.ok()) << link.status();
  EXPECT_GT(link->alpha, 1e-8);
  EXPECT_LT(link->alpha, 0.1);
  EXPECT_GT(link->bandwidth, 1e6);
  EXPECT_GE(link->peer_seconds, 0);
  EXPECT_LT(link->peer_seconds, 0.1);
}

TEST(CalibrationTest, AStepOfATinyModelTakesSomeTime) {
  const absl::StatusOr<double> seconds = CalibrateStep(-1, 1);
  ASSERT_TRUE(seconds.ok()) << seconds.status();
  EXPECT_GT(*seconds, 1e-7);
  EXPECT_LT(*seconds, 1);
}

}  // namespace
}  // namespace conclave
