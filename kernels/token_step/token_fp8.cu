#include "kernels/token_step/token_kernel.cuh"
#include "kernels/token_step/token_quant.cuh"

namespace conclave {

absl::Status LaunchTokenFp8(const TokenLaunch& launch) {
  return LaunchTokenFormat<TokenFp8>(launch);
}

}  // namespace conclave
