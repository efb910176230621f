// Kernels around dequant.cuh alone: what its fragments and scales are, and how fast a chip unpacks
// tiles that are already in shared memory. For tests and benches; any thread, on its current
// device.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

struct DequantProbe {
  WeightFormat format = WeightFormat::kInt4;
  int32_t group = 64;
  const void* tile = nullptr;  // device, TileBytes
  // [3: all codes at once, one step at a time, by nf4's table or as the first][4 steps][32][4]
  uint32_t* fragments = nullptr;
  float* row_scales = nullptr;   // [16][kSumGroups]
  float* lane_scales = nullptr;  // [32][kSumGroups][2: rows g and g + 8]
  CudaStream stream = nullptr;
};
absl::Status ProbeDequant(const DequantProbe& probe);

// Every warp of `blocks` blocks of 8 warps unpacks `rounds` tiles and multiplies them with one
// column tile of activations, bringing in the scales as a decode kernel does; with format kBf16 it
// loads fragments instead.
struct DequantSpeed {
  WeightFormat format = WeightFormat::kInt4;
  int32_t group = 64;
  int32_t blocks = 0;
  int32_t rounds = 0;
  bool table = false;     // nf4 by Nf4TableTile
  float* sink = nullptr;  // [1]
  CudaStream stream = nullptr;
};
absl::Status ProbeDequantSpeed(const DequantSpeed& speed);

}  // namespace conclave
