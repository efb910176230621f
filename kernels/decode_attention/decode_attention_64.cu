#include "kernels/decode_attention/decode_kernel.cuh"

namespace conclave {

absl::Status LaunchDecode64(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  return LaunchDecode<64>(args, grid);
}

}  // namespace conclave
