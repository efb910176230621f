#include "kernels/expert_ffn/ffn_test_kit.h"

#include <cmath>
#include <numeric>

#include "comm/base/rng.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// [rows, cols] of the dtype, the same for the same seed.
std::vector<uint8_t> ScaledElements(int64_t rows, int64_t cols, Dtype dtype, uint64_t seed) {
  const size_t width = DtypeBytes(dtype);
  std::vector<uint8_t> elements(rows * cols * width);
  Rng rng(seed);
  const double scale = 1.0 / std::sqrt(static_cast<double>(cols));
  for (int64_t i = 0; i < rows * cols; ++i) {
    const float value = static_cast<float>((rng.Uniform() * 2 - 1) * scale);
    if (dtype == Dtype::kF32) {
      reinterpret_cast<float*>(elements.data())[i] = value;
    } else {
      reinterpret_cast<uint16_t*>(elements.data())[i] =
          dtype == Dtype::kF16 ? FloatToF16(value) : FloatToBf16(value);
    }
  }
  return elements;
}

}  // namespace

FfnWeights RandomFfnSlice(const FfnShape& shape, uint64_t seed, int slice, int slices) {
  CHECK_EQ(shape.ffn % slices, 0);
  FfnWeights weights;
  weights.ffn = shape.ffn / slices;
  const int64_t padded = (weights.ffn + 15) / 16 * 16;
  weights.gate_up = PackedMatrix(2 * padded, shape.hidden, shape.dtype, 8);
  weights.down = PackedMatrix(shape.hidden, weights.ffn, shape.dtype, 8 / slices);
  const int64_t width = static_cast<int64_t>(DtypeBytes(shape.dtype));
  const int64_t first = slice * weights.ffn;
  const auto gate = ScaledElements(shape.ffn, shape.hidden, shape.dtype, seed);
  const auto up = ScaledElements(shape.ffn, shape.hidden, shape.dtype, seed + 1);
  const auto down = ScaledElements(shape.hidden, shape.ffn, shape.dtype, seed + 2);
  const int64_t offset = first * shape.hidden * width;
  SetGateRows(weights, 0, weights.ffn, gate.data() + offset, shape.hidden);
  SetUpRows(weights, 0, weights.ffn, up.data() + offset, shape.hidden);
  weights.down.SetRows(0, shape.hidden, down.data() + first * width, shape.ffn);
  return weights;
}

FfnWeights RandomFfn(const FfnShape& shape, uint64_t seed) {
  return RandomFfnSlice(shape, seed, 0, 1);
}

void FillTable(Routing& routing, int slots) {
  routing.table.first.assign(slots + 1, 0);
  for (const int32_t slot : routing.slot_of_entry) ++routing.table.first[slot + 1];
  std::partial_sum(routing.table.first.begin(), routing.table.first.end(),
                   routing.table.first.begin());
  std::vector<int32_t> next(routing.table.first.begin(), routing.table.first.end() - 1);
  routing.table.order.resize(routing.slot_of_entry.size());
  for (size_t e = 0; e < routing.slot_of_entry.size(); ++e) {
    routing.table.order[next[routing.slot_of_entry[e]]++] = static_cast<int32_t>(e);
  }
}

Routing RandomRouting(int64_t rows, int top_k, int slots, uint64_t seed) {
  Routing routing;
  Rng rng(seed);
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t first = static_cast<int64_t>(rng.Below(slots));
    for (int c = 0; c < top_k; ++c) {
      routing.row_of_entry.push_back(static_cast<int32_t>(r));
      routing.slot_of_entry.push_back(static_cast<int32_t>((first + c * 7) % slots));
    }
  }
  FillTable(routing, slots);
  return routing;
}

}  // namespace conclave
