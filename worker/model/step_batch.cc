#include "worker/model/step_batch.h"

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {

absl::Status StepBatch::AddTokens(const SequenceSlice& slice, const SampledBefore* before) {
  if (!slice.from_previous_step || before == nullptr) {
    ids_.insert(ids_.end(), slice.tokens.begin(), slice.tokens.end());
    return absl::OkStatus();
  }
  const auto it = before->find(slice.request);
  if (it == before->end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        plan_->step.ToString(), " of ", plan_->epoch.ToString(), ": ", slice.request.ToString(),
        ": from_previous_step, but the step before sampled no token for it; give the token"));
  }
  ids_.push_back(it->second);
  return absl::OkStatus();
}

void StepBatch::AddHeadRows(const SequenceSlice& slice, int32_t sequence, int32_t first) {
  const int32_t count = static_cast<int32_t>(slice.tokens.size());
  for (int32_t i = slice.want_logits ? 0 : count - 1; i < count; ++i) {
    const bool sample = slice.sample && i == count - 1;
    if (!sample && !slice.want_logits) continue;
    head_rows_.push_back({first + i, sequence, slice.position + i, sample, slice.want_logits});
    samples_ += sample ? 1 : 0;
  }
}

absl::Status StepBatch::Build(const StepPlan& plan, const SampledBefore* before) {
  plan_ = &plan;
  for (auto* list : {&ids_, &positions_, &first_token_, &position_, &first_page_, &page_table_}) {
    list->clear();
  }
  head_rows_.clear();
  samples_ = 0;
  first_token_.push_back(0);
  first_page_.push_back(0);
  for (size_t s = 0; s < plan.batch.size(); ++s) {
    const SequenceSlice& slice = plan.batch[s];
    const int32_t first = static_cast<int32_t>(ids_.size());
    RETURN_IF_ERROR(AddTokens(slice, before));
    for (size_t i = 0; i < slice.tokens.size(); ++i) {
      positions_.push_back(slice.position + static_cast<int32_t>(i));
    }
    AddHeadRows(slice, static_cast<int32_t>(s), first);
    first_token_.push_back(static_cast<int32_t>(ids_.size()));
    position_.push_back(slice.position);
    page_table_.insert(page_table_.end(), slice.pages.begin(), slice.pages.end());
    first_page_.push_back(static_cast<int32_t>(page_table_.size()));
  }
  return absl::OkStatus();
}

}  // namespace conclave
