// Without a CUDA toolkit.
#include "kernels/exact/exact.h"
#include "kernels/exact/exact_product.h"

namespace conclave {
namespace {

absl::Status Absent() {
  return absl::UnavailableError(
      "the exact GPU kernels are not in this binary; build it where a CUDA toolkit is installed, "
      "or use --device cpu");
}

}  // namespace

absl::Status LaunchExactStream(const ExactProduct&, int, CudaStream) { return Absent(); }
absl::Status LaunchExactTile(const ExactProduct&, CudaStream) { return Absent(); }
absl::Status ExactGemm(const ExactGemmArgs&, CudaStream) { return Absent(); }
absl::Status ExactFfn(const ExactFfnArgs&, CudaStream) { return Absent(); }
absl::Status ExactRmsNorm(const ExactNormArgs&, CudaStream) { return Absent(); }
absl::Status ExactSumSquares(ExactRows, int, float*, CudaStream) { return Absent(); }
absl::Status ExactScaleByRms(const ExactScaleArgs&, CudaStream) { return Absent(); }
absl::Status ExactNormRope(const ExactRopeArgs&, CudaStream) { return Absent(); }
absl::Status ExactWriteKv(const ExactWriteKvArgs&, CudaStream) { return Absent(); }
absl::Status ExactPagedAttention(const ExactAttentionArgs&, CudaStream) { return Absent(); }
absl::Status ExactGate(const ExactGateArgs&, CudaStream) { return Absent(); }
absl::Status ExactCombine(const ExactCombineArgs&, CudaStream) { return Absent(); }
absl::Status ExactGatherRows(const ExactGatherArgs&, CudaStream) { return Absent(); }
absl::Status ExactEmbed(const ExactEmbedArgs&, CudaStream) { return Absent(); }
absl::Status ExactAdd(float*, const float*, int64_t, CudaStream) { return Absent(); }

}  // namespace conclave
