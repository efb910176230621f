// The table of rotary angles that the GPU kernels read: cosine and sine of every position and
// frequency, filled once when a model is loaded. Angles are the fp32 product of frequency and
// position, their sine and cosine taken in double and rounded once, as kernels/rope. The caller
// owns the memory and synchronises; any thread, on its current device. Writes positions * head_dim
// * 4 bytes.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"

namespace conclave {

struct RopeTableArgs {
  const float* frequencies = nullptr;  // device, [head_dim / 2], RopeFrequencies of kernels/rope
  int32_t positions = 0;
  int32_t head_dim = 0;    // even
  float* table = nullptr;  // device, [positions, head_dim / 2, 2]: cosine, sine; 16-byte aligned
  CudaStream stream = nullptr;
};
absl::Status FillRopeTable(const RopeTableArgs& args);

// The same on host memory.
void FillRopeTableRef(const RopeTableArgs& args);

}  // namespace conclave
