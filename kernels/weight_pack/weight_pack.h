// How weights get into GPU tiles (weight_tiles.h, quant_tiles.h): rows as a checkpoint has them,
// copied to the device, are converted, quantised and laid out by one kernel, so that a model loads
// at the speed of the copy. Every 32-bit word of a tile belongs to one output, hence calls for
// different outputs may come in any order and run at once. The caller owns all memory; nothing is
// allocated or waited for; any thread, on its current device.
// Bytes: count * columns elements read, TileBytes for every 16 x 64 of them written.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "comm/base/dtype.h"
#include "comm/device/cuda_stream.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

// Where row r of the source becomes output: r itself, or GateOutput(r), UpOutput(r).
enum class RowPlacement : uint8_t { kPlain, kGate, kUp };

struct PackRowsArgs {
  WeightView out;  // written, for all that its data is const
  int32_t matrix = 0;
  RowPlacement placement = RowPlacement::kPlain;
  int64_t first = 0;  // the first source row is row `first` of the placement; any number
  int64_t count = 0;
  Dtype dtype = Dtype::kBf16;    // of the source: kF32, kF16 or kBf16
  int64_t first_column = 0;      // inputs [first_column, + columns) of each row. Begins, and unless
  int64_t columns = 0;           // it is at the end of the inputs ends, at a multiple of 64 and of
                                 // the group
  const void* source = nullptr;  // [count, source_stride], aligned to its elements
  int64_t source_stride = 0;     // elements; 0: columns
  CudaStream stream = nullptr;
};

// InvalidArgument that names the field, for what PackRows would refuse.
absl::Status CheckPackRows(const PackRowsArgs& args);

// Converts by rounding to nearest even; quantises each group of a row by itself (quant_codes.h;
// the groups are those of the view, cut off at the last input). Inputs up to the end of the last
// tile are written as zeros; outputs that no call names keep what ZeroMatrix gave them.
absl::Status PackRows(const PackRowsArgs& args);

// Makes all of a matrix zeros, padding included, in any format.
absl::Status ZeroMatrix(const WeightView& view, int32_t matrix, CudaStream stream);

}  // namespace conclave
