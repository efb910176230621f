#include "coordinator/request/request_check.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

absl::Status CheckSampling(const SamplingParams& sampling) {
  // Written so that NaN fails.
  if (!(sampling.temperature >= 0) || !std::isfinite(sampling.temperature)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("temperature %g must be 0 (greedy) or more", sampling.temperature));
  }
  if (!(sampling.top_p > 0 && sampling.top_p <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("top_p %g must be above 0 and at most 1 (off)", sampling.top_p));
  }
  if (!(sampling.min_p >= 0 && sampling.min_p <= 1)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("min_p %g must be from 0 (off) to 1", sampling.min_p));
  }
  if (sampling.top_k < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("top_k %d must be 0 (off) or more", sampling.top_k));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckRequest(const GenerationRequest& request, const ModelShape& shape) {
  if (request.prompt.empty()) {
    return absl::InvalidArgumentError("the prompt has no tokens; give at least one");
  }
  for (int32_t token : request.prompt) {
    if (token >= 0 && token < shape.vocab) continue;
    return absl::InvalidArgumentError(absl::StrFormat(
        "prompt token %d is outside the vocabulary; use 0 to %d", token, shape.vocab - 1));
  }
  if (request.tokens_max < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_tokens %d must be 0 or more", request.tokens_max));
  }
  if (request.tokens_max == 0 && !request.want_logits) {
    return absl::InvalidArgumentError("max_tokens 0 asks for nothing; give 1 or more");
  }
  return CheckSampling(request.sampling);
}

}  // namespace conclave
