#include "kernels/token_sampler/sampler_draw.cuh"

namespace conclave {

absl::Status LaunchDraw4(const TokenSamplerArgs& args, CudaStream stream, bool dependent) {
  return LaunchDraw<4>(args, stream, dependent);
}

}  // namespace conclave
