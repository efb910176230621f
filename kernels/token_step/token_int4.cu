#include "kernels/token_step/token_kernel.cuh"
#include "kernels/token_step/token_quant.cuh"

namespace conclave {

absl::Status LaunchTokenInt4(const TokenLaunch& launch) {
  return LaunchTokenFormat<TokenInt4>(launch);
}

}  // namespace conclave
