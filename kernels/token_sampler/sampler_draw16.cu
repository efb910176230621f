#include "kernels/token_sampler/sampler_draw.cuh"

namespace conclave {

absl::Status LaunchDraw16(const TokenSamplerArgs& args, CudaStream stream, bool dependent) {
  return LaunchDraw<16>(args, stream, dependent);
}

}  // namespace conclave
