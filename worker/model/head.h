// The end of a model: final norm, logits of the wanted rows, gathered over the tensor-parallel
// group (each rank has a slice of the vocabulary), the next tokens, and the tokens' way back to the
// ranks that embed them in the next step, so that a step never waits for the coordinator. Free
// functions; engine's thread.
#pragma once

#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "comm/types/parallel_spec.h"
#include "comm/types/worker_facts.h"
#include "worker/model/step_context.h"

namespace conclave {

// Takes Logits facts of at most kLogitsFactBytes of values each (at least one position).
using LogitsSink = absl::FunctionRef<void(Logits)>;
inline constexpr int64_t kLogitsFactBytes = 512 << 10;

// What a device does for the head: logits of tokens of the batch over this rank's slice of the
// vocabulary, into host rows `slice` [tokens, vocab_end - vocab_begin].
struct HeadSlice {
  int64_t vocab_begin = 0;
  int64_t vocab_end = 0;
  absl::FunctionRef<absl::Status(absl::Span<const int32_t> tokens, Rows slice)> compute;
};

// Runs on every tp rank of a dp group of the last stage, together, after the final norm. On tp rank
// 0 reports logits and returns the samples in the order of the batch; elsewhere nothing.
absl::Status RunHead(StepContext& ctx, const HeadSlice& head, LogitsSink sink,
                     std::vector<SampledToken>& sampled);
// The same of the CPU, the final norm included.
absl::Status RunCpuHead(StepContext& ctx, const ModelWeights& weights, LogitsSink sink,
                        std::vector<SampledToken>& sampled);

// Carries the tokens sampled by tp rank 0 of the last stage to all tp ranks of the first stage of
// the same dp group, where `tokens` [ctx.batch.samples()] receives them in the order of the batch.
// Other ranks do nothing.
absl::Status ShareSampled(StepContext& ctx, const ParallelSpec& spec, int rank,
                          std::vector<int32_t>& tokens);

}  // namespace conclave
