// sampling: the next token from logits. Greedy at temperature 0 (ties to the lower id); otherwise temperature, then top-k, top-p
// and min-p in vLLM's order, then one draw of the counter-based generator keyed by (seed, position): the same request
// and seed give the same text, whatever the batch, and a replay continues it.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace conclave {

struct SamplerOptions {
  float temperature = 1.0f;
  int32_t top_k = 0;      // 0: off
  float top_p = 1.0f;     // 1: off
  float min_p = 0.0f;     // 0: off; relative to the most likely token
  uint64_t seed = 0;
};

struct Sample {
  int32_t token = 0;
  float logprob = 0;      // under the unmodified softmax
};

// logits [vocab]; position: of the token being chosen.
Sample SampleToken(absl::Span<const float> logits, const SamplerOptions& options, int64_t position);
Sample SampleTokenRef(absl::Span<const float> logits, const SamplerOptions& options, int64_t position);

}  // namespace conclave
