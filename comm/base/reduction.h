// The fixed reduction of DESIGN 4: every reduction dimension is cut into kReductionSlices slices,
// each summed in index order, and the partial sums are added in a fixed binary tree, whoever owns
// the slices. So logits do not depend on the placement. A rank of a tensor-parallel group of n (a
// divisor of kReductionSlices) owns kReductionSlices / n neighbouring slices, which are a subtree;
// all_reduce adds the subtrees in the same tree. Pure; any thread.
#pragma once

#include <cstdint>

namespace conclave {

inline constexpr int kReductionSlices = 8;

// First index of slice `slice` (0..kReductionSlices) of a dimension of `size` elements: floor(slice
// * size / 8).
constexpr int64_t ReductionSliceBegin(int64_t size, int slice) {
  return slice * size / kReductionSlices;
}

// True when `ways` owners can share a dimension of `size` elements without cutting a slice.
constexpr bool ReductionDivides(int64_t size, int ways) {
  return ways > 0 && kReductionSlices % ways == 0 && size % ways == 0;
}

// Adds count (1, 2, 4 or 8) values with the fixed tree ((0+1)+(2+3))+((4+5)+(6+7)), in place; the
// sum is values[0].
template <typename T>
constexpr T TreeSum(T* values, int count) {
  for (int stride = 1; stride < count; stride *= 2) {
    for (int i = 0; i + stride < count; i += 2 * stride) values[i] = values[i] + values[i + stride];
  }
  return values[0];
}

}  // namespace conclave
