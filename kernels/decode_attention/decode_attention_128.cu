#include "kernels/decode_attention/decode_kernel.cuh"

namespace conclave {

absl::Status LaunchDecode128(const DecodeAttentionArgs& args, const DecodeGrid& grid) {
  return LaunchDecode<128>(args, grid);
}

}  // namespace conclave
