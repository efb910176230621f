// plain_pack: brings row-major weights into the tiles of kernels/cuda/weight_tiles.h on a GPU.
// temporary
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

enum class RowPlacement : uint8_t { kPlain, kGate, kUp };

struct PackRowsArgs {
  WeightView out;
  int32_t matrix = 0;
  RowPlacement placement = RowPlacement::kPlain;
  int64_t first = 0;
  int64_t count = 0;
  Dtype dtype = Dtype::kBf16;
  int64_t columns = 0;
  const void* source = nullptr;  // device
  CudaStream stream = nullptr;
};
absl::Status PackRows(const PackRowsArgs& args);

}  // namespace conclave
