// moe_gate: router logits to the top-k experts of each token and their weights: softmax over all
// experts in fp32, the k largest (ties to the lower expert), optionally scaled to sum to 1. Logits
// come from a Gemm with the router's weights.
#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "kernels/tensor/rows.h"

namespace conclave {

struct MoeGateArgs {
  ConstRows logits;  // [tokens, experts]
  int top_k = 0;
  bool normalize = true;
  absl::Span<int32_t> experts;  // out [tokens, top_k], in order of falling probability
  absl::Span<float> weights;    // out [tokens, top_k]
};
void MoeGate(const MoeGateArgs& args);
void MoeGateRef(const MoeGateArgs& args);

}  // namespace conclave
