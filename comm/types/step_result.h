// StepResult: what a worker observed of one step. Every rank reports (timings, experts, traffic);
// tokens come from tp rank 0 of the last stage only. A value; any thread may read it.
#pragma once

#include <cstdint>
#include <vector>

#include "comm/base/strong_id.h"

namespace conclave {

struct SampledToken {
  RequestId request;
  int32_t position = 0;  // the position the token will take: last computed + 1
  int32_t token = 0;
  float logprob = 0;

  bool operator==(const SampledToken&) const = default;
};

// Tokens that an expert slot of this rank served in the step.
struct ExpertLoad {
  int32_t layer = 0;
  int32_t expert = 0;
  int32_t slice = 0;
  int32_t tokens = 0;

  bool operator==(const ExpertLoad&) const = default;
};

// Traffic of MoE dispatch and combine as counted on the wire, and what the naive schedule would
// have sent for the same routing. Own rows are not counted. Bytes are payload and headers.
struct ExchangeStats {
  int64_t exchanges = 0;  // all-to-alls executed: two for each MoE layer
  int64_t peers_max = 0;  // most peers sent to in one exchange
  int64_t messages = 0;
  int64_t bytes = 0;
  int64_t naive_peers_max = 0;
  int64_t naive_messages = 0;
  int64_t naive_bytes = 0;
  int64_t gather_bytes = 0;  // the tp gather that completes PCC, inside the group

  bool operator==(const ExchangeStats&) const = default;
};

struct StepTimings {
  int64_t total_us = 0;
  int64_t attention_us = 0;
  int64_t experts_us = 0;     // dense FFN too
  int64_t exchange_us = 0;    // dispatch, combine, waits included
  int64_t collective_us = 0;  // tp reduce and gather, pipeline sends
  int64_t head_us = 0;        // lm head and sampling

  bool operator==(const StepTimings&) const = default;
};

struct StepResult {
  Epoch epoch;
  StepId step;
  std::vector<SampledToken> tokens;
  std::vector<ExpertLoad> experts;  // slots with at least one token
  ExchangeStats exchange;
  StepTimings timings;
  int64_t weight_bytes_read = 0;  // bytes of weights the kernels read in this step

  bool operator==(const StepResult&) const = default;
};

}  // namespace conclave
