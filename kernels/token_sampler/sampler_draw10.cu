#include "kernels/token_sampler/sampler_draw.cuh"

namespace conclave {

absl::Status LaunchDraw10(const TokenSamplerArgs& args, CudaStream stream, bool dependent) {
  return LaunchDraw<10>(args, stream, dependent);
}

}  // namespace conclave
