#include "worker/engine/step_check.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

absl::Status Refuse(const StepPlan& plan, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrFormat("%s of %s: %s; the coordinator must plan again",
                                                    plan.step.ToString(), plan.epoch.ToString(),
                                                    what));
}

absl::Status CheckTokens(const StepPlan& plan, const SequenceSlice& slice,
                         const StepLimits& limits) {
  if (slice.from_previous_step) {
    if (slice.tokens.size() == 1) return absl::OkStatus();
    return Refuse(plan, absl::StrFormat("%s: from_previous_step takes 1 token, not %d",
                                        slice.request.ToString(), slice.tokens.size()));
  }
  for (int32_t token : slice.tokens) {
    if (token < 0 || token >= limits.vocab) {
      return Refuse(plan, absl::StrFormat("%s: token id %d is outside the vocabulary of %d",
                                          slice.request.ToString(), token, limits.vocab));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckSlice(const StepPlan& plan, const SequenceSlice& slice,
                        const StepLimits& limits) {
  const std::string request = slice.request.ToString();
  if (slice.tokens.empty()) return Refuse(plan, request + ": has no tokens");
  if (slice.tokens.size() > static_cast<size_t>(kStepTokensMax)) {
    return Refuse(plan, absl::StrFormat("%s: %d tokens are more than the %d a step may hold",
                                        request, slice.tokens.size(), kStepTokensMax));
  }
  const int64_t end = static_cast<int64_t>(slice.position) + slice.tokens.size();
  const int64_t room = static_cast<int64_t>(slice.pages.size()) * limits.page_tokens;
  if (slice.position < 0 || end > room) {
    return Refuse(plan, absl::StrFormat(
                            "%s: positions %d to %d are outside its %d pages of %d tokens", request,
                            slice.position, end - 1, slice.pages.size(), limits.page_tokens));
  }
  for (int32_t page : slice.pages) {
    if (page < 0 || page >= limits.pages) {
      return Refuse(plan, absl::StrFormat("%s: page %d is outside the pool of %d pages", request,
                                          page, limits.pages));
    }
  }
  const SamplingParams& sampling = slice.sampling;
  // Written so that NaN fails.
  const bool sane = sampling.temperature >= 0 && sampling.top_p >= 0 && sampling.top_p <= 1 &&
                    sampling.min_p >= 0 && sampling.min_p <= 1 && sampling.top_k >= 0;
  if (slice.sample && !sane) {
    return Refuse(plan, absl::StrFormat("%s: sampling temperature %g, top_k %d, top_p %g, min_p %g "
                                        "must be >= 0 (the last two at most 1)",
                                        request, sampling.temperature, sampling.top_k,
                                        sampling.top_p, sampling.min_p));
  }
  return CheckTokens(plan, slice, limits);
}

absl::Status CheckRequestsDiffer(const StepPlan& plan) {
  std::vector<RequestId> ids;
  for (const SequenceSlice& slice : plan.batch) ids.push_back(slice.request);
  std::sort(ids.begin(), ids.end());
  const auto twice = std::adjacent_find(ids.begin(), ids.end());
  if (twice == ids.end()) return absl::OkStatus();
  return Refuse(plan, twice->ToString() + " is in the batch twice");
}

}  // namespace

absl::Status CheckStepPlan(const StepPlan& plan, const StepLimits& limits) {
  if (plan.tokens_by_dp.size() != static_cast<size_t>(limits.dp_groups)) {
    return Refuse(plan, absl::StrFormat("tokens_by_dp has %d counts for %d dp groups",
                                        plan.tokens_by_dp.size(), limits.dp_groups));
  }
  for (int32_t count : plan.tokens_by_dp) {
    if (count < 0 || count > kStepTokensMax) {
      return Refuse(plan,
                    absl::StrFormat("tokens_by_dp has %d; use 0 to %d", count, kStepTokensMax));
    }
  }
  int64_t tokens = 0;
  for (const SequenceSlice& slice : plan.batch) {
    RETURN_IF_ERROR(CheckSlice(plan, slice, limits));
    tokens += slice.tokens.size();
  }
  if (tokens != plan.tokens_by_dp[limits.dp]) {
    return Refuse(plan, absl::StrFormat("the batch has %d tokens, tokens_by_dp[%d] says %d", tokens,
                                        limits.dp, plan.tokens_by_dp[limits.dp]));
  }
  return CheckRequestsDiffer(plan);
}

}  // namespace conclave
