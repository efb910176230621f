// rope: rotary position embedding of query and key heads, with the optional per-head RMS norm
// before it (Qwen3). The "rotate half" pairing of transformers: (i, i + head_dim / 2). Angles are
// the fp32 product of frequency and position, as there; their sine and cosine are taken in double
// and rounded once. Pure; any thread. Source: RoFormer (arXiv 2104.09864); llama3 frequency
// rescaling as in transformers' _compute_llama3_parameters.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "kernels/tensor/rows.h"

namespace conclave {

struct RopeOptions {
  int head_dim = 0;
  double theta = 10000.0;
  bool llama3 = false;  // rescale frequencies by the four below
  double factor = 1.0;
  double low_freq_factor = 1.0;
  double high_freq_factor = 4.0;
  int64_t original_context_tokens = 0;
};

// Inverse frequencies [head_dim / 2], in fp32 as transformers holds them.
std::vector<float> RopeFrequencies(const RopeOptions& options);

// In place on x [tokens, heads * head_dim]. norm_weight [head_dim] or empty: per-head RMS norm
// first.
struct RopeArgs {
  Rows x;
  int head_dim = 0;
  absl::Span<const int32_t> positions;  // [tokens]
  absl::Span<const float> frequencies;  // [head_dim / 2]
  absl::Span<const float> norm_weight;  // [head_dim] or empty
  float norm_epsilon = 0;
};
void NormRope(const RopeArgs& args);
void NormRopeRef(const RopeArgs& args);

}  // namespace conclave
