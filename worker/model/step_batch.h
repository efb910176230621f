// StepBatch: a StepPlan as the flat arrays that kernels take: token ids and positions of every
// token, the paged layout of sequences, and the rows whose logits are wanted. Owned by the Model,
// rebuilt each step in the same memory; engine's thread.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"
#include "comm/types/step_plan.h"
#include "kernels/attention/paged_attention.h"

namespace conclave {

// The token sampled for each request in the step before.
using SampledBefore = absl::flat_hash_map<RequestId, int32_t>;

// One row of the head: a token whose logits are sampled from, reported, or both.
struct HeadRow {
  int32_t token = 0;     // index into the batch
  int32_t sequence = 0;  // index into the plan's batch
  int32_t position = 0;
  bool sample = false;
  bool report = false;
};

class StepBatch {
 public:
  // `plan` has passed CheckStepPlan and outlives the batch. `before` fills in from_previous_step
  // inputs; null on ranks that do not embed. InvalidArgument when a request has no token there.
  absl::Status Build(const StepPlan& plan, const SampledBefore* before);

  int tokens() const { return static_cast<int>(ids_.size()); }
  const StepPlan& plan() const { return *plan_; }
  absl::Span<const int32_t> ids() const { return ids_; }              // [tokens]
  absl::Span<const int32_t> positions() const { return positions_; }  // [tokens]
  absl::Span<const HeadRow> head_rows() const { return head_rows_; }
  int samples() const { return samples_; }  // head rows that sample
  PagedBatch paged() const { return {first_token_, position_, first_page_, page_table_}; }

 private:
  absl::Status AddTokens(const SequenceSlice& slice, const SampledBefore* before);
  void AddHeadRows(const SequenceSlice& slice, int32_t sequence, int32_t first);

  const StepPlan* plan_ = nullptr;
  std::vector<int32_t> ids_;
  std::vector<int32_t> positions_;
  std::vector<int32_t> first_token_;
  std::vector<int32_t> position_;
  std::vector<int32_t> first_page_;
  std::vector<int32_t> page_table_;
  std::vector<HeadRow> head_rows_;
  int samples_ = 0;
};

}  // namespace conclave
