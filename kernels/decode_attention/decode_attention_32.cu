#include "kernels/decode_attention/decode_kernel.cuh"

namespace conclave {

absl::Status LaunchDecode32(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  return LaunchDecode<32>(args, grid);
}

}  // namespace conclave
