// The vector part of moe_gate: exponentials of a row and their sum in a fixed order. Internal to
// kernels/moe_gate; any thread.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/moe_gate/moe_gate.h"

namespace conclave {

void CheckMoeGateArgs(const MoeGateArgs& args);

// Sum of exp(x[i] - max), i < count.
float ExpSum(const float* x, int64_t count, float max);

// x := exp(x - max) / sum.
void ExpScale(absl::Span<float> x, float max, float sum);

}  // namespace conclave
