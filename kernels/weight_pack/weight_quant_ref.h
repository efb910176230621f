// The packer and its inverse in plain host code, for tests and for references of other kernels: one
// element at a time, through the pure functions of quant_tiles.h and quant_codes.h. All pointers of
// views and args are the host's. Any thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "kernels/weight_pack/weight_pack.h"

namespace conclave {

// Writes the bytes that PackRows writes; `stream` is not looked at.
absl::Status PackRowsRef(const PackRowsArgs& args);

// The number that a code stands for, before its scale.
float CodeValue(WeightFormat format, uint32_t code);

// An element of dequant.cuh's fragments: a bf16 number, the code's value times FragmentUnit; of
// mxfp4 times the scale too.
float FragmentAt(const WeightView& view, int32_t matrix, int64_t output, int64_t input);
// RowScale of dequant.cuh for an element's group; 1 for plain formats. weight = FragmentAt *
// RowScaleAt.
float RowScaleAt(const WeightView& view, int32_t matrix, int64_t output, int64_t input);
// An element as kernels see it.
float WeightAt(const WeightView& view, int32_t matrix, int64_t output, int64_t input);

// [outputs, inputs]
std::vector<float> Dequantise(const WeightView& view, int32_t matrix);

}  // namespace conclave
