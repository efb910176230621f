#include "kernels/token_step/token_kernel.cuh"

namespace conclave {

absl::Status LaunchTokenBf16(const TokenLaunch& launch) {
  return LaunchTokenFormat<TokenBf16>(launch);
}

}  // namespace conclave
