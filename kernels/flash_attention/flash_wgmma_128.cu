#include "kernels/flash_attention/flash_wgmma_kernel.cuh"

namespace conclave {

absl::Status LaunchFlashWgmma128(const FlashAttentionArgs& args) {
  return LaunchFlashWgmma<128>(args);
}

}  // namespace conclave
