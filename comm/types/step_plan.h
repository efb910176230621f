// StepPlan: what one dp group of a replica computes in one forward pass. Made by the batcher,
// broadcast to the workers of the group, executed by Engine. Workers keep no sequence state beside
// KV pages: a plan names all it needs. A value; any thread may read it.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/strong_id.h"

namespace conclave {

// How the next token is chosen. temperature 0 is greedy; top_k 0 and top_p 1 and min_p 0 switch
// those off.
struct SamplingParams {
  float temperature = 1.0f;
  int32_t top_k = 0;
  float top_p = 1.0f;
  float min_p = 0.0f;
  uint64_t seed = 0;  // with the position, the key of the counter-based generator

  bool operator==(const SamplingParams&) const = default;
};

// The share of one sequence in a step: a chunk of its prompt, or one decode token.
struct SequenceSlice {
  RequestId request;
  int32_t position = 0;             // of the first token computed
  std::vector<int32_t> tokens;      // input ids; one entry, ignored, when from_previous_step
  bool from_previous_step = false;  // the input is the token sampled for this request one step ago
  std::vector<int32_t> pages;  // KV block table of the sequence up to its last token computed here
  bool sample = false;         // choose the token after the last position
  bool want_logits = false;    // report the logits of every position (as Logits facts)
  SamplingParams sampling;

  bool operator==(const SequenceSlice&) const = default;
};

struct StepPlan {
  Epoch epoch;
  StepId step;
  std::vector<int32_t>
      tokens_by_dp;  // [dp] tokens in this step of every dp group: bounds of the MoE exchange
  std::vector<SequenceSlice>
      batch;  // of the receiver's dp group; empty when it only serves its experts

  bool operator==(const StepPlan&) const = default;
};

}  // namespace conclave
