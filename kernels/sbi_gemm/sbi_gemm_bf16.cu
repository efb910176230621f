#include "kernels/sbi_gemm/sbi_kernel.cuh"

namespace conclave {


absl::Status LaunchSbiBf16(const SbiLaunch& launch, const SbiLaunchOptions& options) {
  return LaunchSbiFormat<SbiBf16Tiles>(launch, options);
}

}  // namespace conclave
