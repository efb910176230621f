// The passes of sampling over all logits of a row, vectorised. Internal to kernels/sampling; any
// thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"

namespace conclave {

// Passes work on blocks of this many tokens, so that the sum of a row is the same however it is
// read.
inline constexpr int64_t kScanBlock = 1024;

// Relative weights of a row: exp((x - max) / temperature), cut to 0 below `weight_min`.
struct WeightScale {
  float max = 0;
  float temperature = 1;
  float weight_min = 0;
};

// NaN as the lowest float, infinities as the finite ends.
float CleanLogit(float logit);

// The largest logit, cleaned.
float MaxLogit(absl::Span<const float> logits);

// out [logits.size() <= kScanBlock] := the weights of `logits`; returns their sum, of sixteen
// lanes.
float ScaleBlock(absl::Span<const float> logits, const WeightScale& scale, float* out);

}  // namespace conclave
