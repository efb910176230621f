// ClusterService: what the HTTP side of a coordinator may ask of its actor. Thread-safe: calls post
// to the actor; answers come through callbacks on the actor's thread, which must not block.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "comm/base/strong_id.h"
#include "comm/types/step_plan.h"
#include "comm/types/step_result.h"
#include "coordinator/service/cluster_status.h"
#include "placement/balance/expert_balance.h"

namespace conclave {

struct GenerationRequest {
  std::vector<int32_t> prompt;  // at least one token
  int32_t tokens_max = 16;      // tokens to generate; 0 with want_logits: prefill only
  SamplingParams sampling;
  // End the text with reason kStop; eos of the model included unless ignored. The stop token itself
  // is still given to OnToken, as the last one.
  std::vector<int32_t> stop_token_ids;
  bool ignore_eos = false;
  bool want_logits = false;  // of every prompt position
};

enum class FinishReason : uint8_t { kStop = 0, kLength = 1, kCancelled = 2, kError = 3 };

// Receives one request's progress, in order, and exactly one OnFinish. Called on the actor's
// thread.
class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnToken(const SampledToken& token) = 0;
  // values: [n, vocab] logits of positions position..position+n.
  virtual void OnLogits(int32_t position, int32_t vocab, absl::Span<const float> values) {}
  // status is ok unless reason is kError. The error names the worker, the epoch and what to do.
  virtual void OnFinish(FinishReason reason, const absl::Status& status) = 0;
};

class ClusterService {
 public:
  virtual ~ClusterService() = default;

  // Always ends in exactly one OnFinish: at once when the request cannot be served
  // (InvalidArgument: too long, ...; Unavailable: no cluster yet or a worker lost;
  // ResourceExhausted: the queue is full).
  virtual RequestId Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) = 0;

  // Ends a request with kCancelled within one step; unknown ids are ignored (it may just have
  // finished).
  virtual void Cancel(RequestId id) = 0;

  virtual void GetStatus(std::function<void(const ClusterStatus&)> done) = 0;
  // Tokens that each expert has served lately: coordinator/request/expert_loads.h.
  virtual void GetExpertLoads(std::function<void(const LoadProfile&)> done) = 0;

  // Refuses new requests, finishes those in flight, shuts the workers down, then stops the actor.
  virtual void Drain() = 0;
};

}  // namespace conclave
