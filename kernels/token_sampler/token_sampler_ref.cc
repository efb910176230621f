#include "absl/types/span.h"
#include "kernels/sampling/sampling.h"
#include "kernels/token_sampler/token_sampler.h"

namespace conclave {

void TokenSamplerRef(const TokenSamplerArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const SamplerOptions options = {.temperature = args.temperature[row],
                                    .top_k = args.top_k[row],
                                    .top_p = args.top_p[row],
                                    .min_p = args.min_p[row],
                                    .seed = args.seed[row]};
    const absl::Span<const float> logits(args.logits + row * args.logits_stride, args.vocab);
    const Sample sample = SampleToken(logits, options, args.position[row]);
    args.tokens[row] = sample.token;
    args.logprobs[row] = sample.logprob;
    if (args.last_tokens == nullptr) continue;
    if (args.slot[row] >= 0) args.last_tokens[args.slot[row]] = sample.token;
  }
}

}  // namespace conclave
