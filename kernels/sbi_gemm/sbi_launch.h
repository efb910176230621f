// What an sbi_gemm kernel is given, and the launcher of each weight format: one .cu a format, to
// keep compiles short. Values; SbiGemm has checked them.
#pragma once

#include "absl/status/status.h"
#include "kernels/sbi_gemm/sbi_gemm.h"

namespace conclave {

struct SbiLaunch {
  SbiArgs args;
  SbiConfig config;
};

absl::Status LaunchSbiBf16(const SbiLaunch& launch, const SbiLaunchOptions& options);

}  // namespace conclave
