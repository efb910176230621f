#include "kernels/flash_attention/flash_wgmma_kernel.cuh"

namespace conclave {

absl::Status LaunchFlashWgmma64(const FlashAttentionArgs& args) {
  return LaunchFlashWgmma<64>(args);
}

}  // namespace conclave
