// StepLog: what is to be told of a step that a GPU still computes: whose tokens it samples, and
// the pinned memory where they and the loads of the experts arrive. Two alternate, for two steps
// in flight. Owned by the FastModel; engine's thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "comm/device/cuda_memory.h"
#include "comm/types/step_plan.h"
#include "comm/types/step_result.h"
#include "comm/types/worker_facts.h"
#include "worker/model/step_batch.h"

namespace conclave {

// A row of the head whose token comes back.
struct SampleRow {
  RequestId request;
  int32_t position = 0;  // of the token
  int32_t row = 0;       // of the step, where its log-probability arrives
};

struct StepLog {
  std::vector<SampleRow> samples;  // in the order of their slots
  std::vector<Logits> logits;      // complete before the step ends
  PinnedBuffer tokens;             // int32 [samples]
  PinnedBuffer logprobs;           // float [samples]
  PinnedBuffer slot_first;         // int32 [parts][layers][slots + 1]
  int32_t rows = 0;                // of the head, of all pieces
  bool one_token = false;          // slot_first holds [layers][top_k] experts instead
  int parts = 0;                   // pieces that the step was cut into
  CudaEvent begun;
  CudaEvent ended;
  std::chrono::steady_clock::time_point submitted;

  static absl::StatusOr<StepLog> Create();
};

}  // namespace conclave
