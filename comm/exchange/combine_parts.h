// CombineParts: the sum of an MoE layer's outputs for each token: over its choices in order, weight
// times the sum over slices in the fixed tree of comm/base/reduction.h. What kernels/moe_permute
// does, bit for bit, but without the residual. Pure; any thread.
#pragma once

#include <cstdint>
#include <functional>

#include "absl/types/span.h"

namespace conclave {

struct PartsToCombine {
  const float* parts = nullptr;  // row i at parts + i * hidden
  int hidden = 0;
  absl::Span<const int32_t> part_row;  // [tokens, top_k, slices]
  absl::Span<const float> weights;     // [tokens, top_k]
  int top_k = 0;
  int slices = 1;        // 1, 2, 4 or 8
  float* out = nullptr;  // [tokens, hidden]
  int64_t tokens() const { return static_cast<int64_t>(weights.size()) / top_k; }
};

// Does what CombineParts does; faster, where kernels may be used.
using CombinePartsFunction = std::function<void(const PartsToCombine&)>;

void CombineParts(const PartsToCombine& args);

}  // namespace conclave
