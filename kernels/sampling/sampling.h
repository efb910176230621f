// sampling: the next token from logits. Greedy at temperature 0 (below 1e-5, as in vLLM; ties to
// the lower id); otherwise vLLM's order: logits / temperature, min-p, top-k, top-p over what is
// left, then one draw of the counter-based generator keyed by (seed, position), which walks the
// tokens left in the order of their ids: the same request and seed give the same text, whatever the
// batch, and a replay continues it. NaN counts as the lowest logit, infinities as the largest
// finite ones, so that any logits give a token and a finite logprob. Pure; any thread.
#pragma once

#include <cstdint>

#include "absl/types/span.h"

namespace conclave {

struct SamplerOptions {
  float temperature = 1.0f;
  int32_t top_k = 0;  // 0: off; exactly top_k are left, ties to the lower id
  float top_p =
      1.0f;  // 1: off; the fewest most likely tokens whose probabilities reach top_p, at least one
  float min_p = 0.0f;  // 0: off; relative to the most likely token
  uint64_t seed = 0;
};

struct Sample {
  int32_t token = 0;
  float logprob = 0;  // under the unmodified softmax
};

// logits [vocab]; position: of the token being chosen.
Sample SampleToken(absl::Span<const float> logits, const SamplerOptions& options, int64_t position);
Sample SampleTokenRef(absl::Span<const float> logits, const SamplerOptions& options,
                      int64_t position);

}  // namespace conclave
