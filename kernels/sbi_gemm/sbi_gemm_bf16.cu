#include "kernels/sbi_gemm/sbi_kernel.cuh"

namespace conclave {

#ifdef SBI_TRACE
void ReadTrace(unsigned long long* to) { cudaMemcpyFromSymbol(to, sbi_trace, sizeof(sbi_trace)); }
#endif

absl::Status LaunchSbiBf16(const SbiLaunch& launch, const SbiLaunchOptions& options) {
  return LaunchSbiFormat<SbiBf16Tiles>(launch, options);
}

}  // namespace conclave
