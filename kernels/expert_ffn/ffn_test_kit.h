// Random FFN weights and routings for the tests and benchmarks of expert_ffn. Values; any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/expert_ffn/expert_ffn.h"

namespace conclave {

struct FfnShape {
  int64_t hidden = 0;
  int64_t ffn = 0;
  Dtype dtype = Dtype::kBf16;
};

// Uniform weights, scaled by 1 / sqrt(inputs) so that activations stay near 1.
FfnWeights RandomFfn(const FfnShape& shape, uint64_t seed);

// Piece `slice` of `slices` of the ffn of the same expert.
FfnWeights RandomFfnSlice(const FfnShape& shape, uint64_t seed, int slice, int slices);

// A batch: every row of x goes to top_k slots.
struct Routing {
  std::vector<int32_t> row_of_entry;
  std::vector<int32_t> slot_of_entry;
  SlotTable table;
};
Routing RandomRouting(int64_t rows, int top_k, int slots, uint64_t seed);

// Counting sort of slot_of_entry into the table.
void FillTable(Routing& routing, int slots);

}  // namespace conclave
