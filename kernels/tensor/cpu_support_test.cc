#include "kernels/tensor/cpu_support.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

TEST(CpuSupport, ThisMachineIsSupported) {
  // The other kernel tests could not run otherwise.
  const absl::Status status = CheckCpuSupported();
  EXPECT_TRUE(status.ok()) << status;
}

TEST(CpuSupport, NamesWhatIsMissingAndTheRemedy) {
  const absl::Status status = CheckCpuFeatures({.avx2 = true, .fma = false, .f16c = false});
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("FMA F16C"));
  EXPECT_THAT(std::string(status.message()), Not(HasSubstr("AVX2")));
  EXPECT_THAT(std::string(status.message()), HasSubstr("x86-64-v3"));
}

TEST(CpuSupport, OldMachineLacksEverything) {
  EXPECT_THAT(std::string(CheckCpuFeatures({}).message()), HasSubstr("AVX2 FMA F16C"));
}

}  // namespace
}  // namespace conclave
