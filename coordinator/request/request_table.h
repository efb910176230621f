// RequestTable: the requests that have not ended, with what they have received so far and where it
// goes. It is what makes sure that a request ends exactly once: after Finish its id is unknown.
// Owned by the serving loop, on the coordinator's thread, where the sinks are called.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "comm/types/worker_facts.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

class RequestTable {
 public:
  struct Totals {
    int64_t finished = 0;       // ended, for whatever reason
    int64_t prompt_tokens = 0;  // of requests accepted
    int64_t generated_tokens = 0;
  };

  void Add(RequestId id, size_t prompt_tokens, std::shared_ptr<GenerationSink> sink,
           absl::Time now);

  // Hand on what came; unknown ids have ended and are passed over.
  void OnToken(const SampledToken& token);
  void OnLogits(const Logits& logits);

  // Ends a request; false when it has ended already.
  bool Finish(RequestId id, FinishReason reason, const absl::Status& status);

  // Ids submitted before `time`, ascending.
  std::vector<RequestId> SubmittedBefore(absl::Time time) const;
  // The tokens generated so far; null when the request has ended.
  const std::vector<int32_t>* Generated(RequestId id) const;

  size_t size() const { return entries_.size(); }
  const Totals& totals() const { return totals_; }

 private:
  struct Entry {
    std::shared_ptr<GenerationSink> sink;
    absl::Time submitted;
    std::vector<int32_t> generated;
  };
  std::map<RequestId, Entry> entries_;
  Totals totals_;
};

}  // namespace conclave
