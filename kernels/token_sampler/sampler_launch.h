// The second kernel's instantiations, one a file: a thread holds kQuads fours of a row's weights.
// Internal to kernels/token_sampler; host code.
#pragma once

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/token_sampler/token_sampler.h"

namespace conclave {

inline constexpr int kDrawThreads = 512;
inline constexpr int kDrawCluster = 8;
inline constexpr int kDrawQuadValues = kDrawThreads * kDrawCluster * 4;

absl::Status LaunchDraw4(const TokenSamplerArgs& args, CudaStream stream, bool dependent);
absl::Status LaunchDraw10(const TokenSamplerArgs& args, CudaStream stream, bool dependent);
absl::Status LaunchDraw16(const TokenSamplerArgs& args, CudaStream stream, bool dependent);

}  // namespace conclave
