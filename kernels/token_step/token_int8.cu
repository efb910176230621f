#include "kernels/token_step/token_kernel.cuh"
#include "kernels/token_step/token_quant.cuh"

namespace conclave {

absl::Status LaunchTokenInt8(const TokenLaunch& launch) {
  return LaunchTokenFormat<TokenInt8>(launch);
}

}  // namespace conclave
