// What the token_step kernel is given, and the launcher of each weight format: one .cu a format, to
// keep compiles short. Values; TokenStep has checked them.
#pragma once

#include "absl/status/status.h"
#include "kernels/token_step/token_plan.h"
#include "kernels/token_step/token_step.h"

namespace conclave {

struct TokenLaunch {
  TokenStepArgs args;
  TokenPlan plan;
};

absl::Status LaunchTokenBf16(const TokenLaunch& launch);
absl::Status LaunchTokenFp8(const TokenLaunch& launch);
absl::Status LaunchTokenInt8(const TokenLaunch& launch);
absl::Status LaunchTokenInt4(const TokenLaunch& launch);

}  // namespace conclave
