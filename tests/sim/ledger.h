// Ledger: what every simulated request asked for and what it got, checked against the oracle as it
// comes: tokens are those of FakeNextToken, logits of each prompt position come once and in order,
// a request ends exactly once and for a reason that fits. Owned by the world; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

struct LedgerEntry {
  GenerationRequest request;
  std::vector<int32_t> all;  // prompt and tokens so far
  int generated = 0;
  int logits_positions = 0;
  bool cancelled = false;     // a cancel was sent
  bool must_succeed = false;  // of the liveness phase
  int ends = 0;
  FinishReason reason = FinishReason::kError;
  absl::Status status;
};

class Ledger {
 public:
  Ledger(int vocab, std::vector<int> eos) : vocab_(vocab), eos_(std::move(eos)) {}

  // Opens the entry of a new request; the sink reports to it and must not outlive the ledger.
  std::shared_ptr<GenerationSink> Open(RequestId id, const GenerationRequest& request,
                                       bool must_succeed);
  void MarkCancelled(RequestId id) { entries_.at(id).cancelled = true; }

  // The coordinator process died: its clients see their connections close.
  void CloseOpen();

  // Requests that have not ended.
  int open() const { return open_; }
  // Of those that had to succeed, the number that has not (yet).
  int unsuccessful() const;
  const std::map<RequestId, LedgerEntry>& entries() const { return entries_; }

  // "request-7: got token 3 at position 9, the oracle says 5". At most 100 are kept.
  const std::vector<std::string>& violations() const { return violations_; }
  void AddViolation(std::string what);

 private:
  class Sink;
  void OnToken(RequestId id, const SampledToken& token);
  void OnLogits(RequestId id, int32_t position, int32_t vocab, absl::Span<const float> values);
  void OnFinish(RequestId id, FinishReason reason, const absl::Status& status);
  void CheckEnd(RequestId id, const LedgerEntry& entry);
  bool IsStop(const LedgerEntry& entry, int32_t token) const;

  const int vocab_;
  const std::vector<int> eos_;
  std::map<RequestId, LedgerEntry> entries_;
  int open_ = 0;
  std::vector<std::string> violations_;
};

}  // namespace conclave
