#include "kernels/decode_attention/decode_kernel.cuh"

namespace conclave {

absl::Status LaunchDecode256(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  return LaunchDecode<256>(args, grid);
}

}  // namespace conclave
