#include "tests/sim/ledger.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "worker/engine/fake_engine.h"

namespace conclave {
namespace {

constexpr size_t kViolationsMax = 100;

}  // namespace

class Ledger::Sink : public GenerationSink {
 public:
  Sink(Ledger& ledger, RequestId id) : ledger_(ledger), id_(id) {}
  void OnToken(const SampledToken& token) override { ledger_.OnToken(id_, token); }
  void OnLogits(int32_t position, int32_t vocab, absl::Span<const float> values) override {
    ledger_.OnLogits(id_, position, vocab, values);
  }
  void OnFinish(FinishReason reason, const absl::Status& status) override {
    ledger_.OnFinish(id_, reason, status);
  }

 private:
  Ledger& ledger_;
  const RequestId id_;
};

std::shared_ptr<GenerationSink> Ledger::Open(RequestId id, const GenerationRequest& request,
                                             bool must_succeed) {
  LedgerEntry entry;
  entry.request = request;
  entry.all = request.prompt;
  entry.must_succeed = must_succeed;
  entries_.emplace(id, std::move(entry));
  ++open_;
  return std::make_shared<Sink>(*this, id);
}

void Ledger::CloseOpen() {
  for (auto& [id, entry] : entries_) {
    if (entry.ends > 0) continue;
    OnFinish(id, FinishReason::kError, absl::UnavailableError("the coordinator died"));
  }
}

int Ledger::unsuccessful() const {
  int count = 0;
  for (const auto& [id, entry] : entries_) {
    count += entry.must_succeed && (entry.ends == 0 || !entry.status.ok()) ? 1 : 0;
  }
  return count;
}

void Ledger::AddViolation(std::string what) {
  if (violations_.size() < kViolationsMax) violations_.push_back(std::move(what));
}

bool Ledger::IsStop(const LedgerEntry& entry, int32_t token) const {
  const auto has = [&](const std::vector<int32_t>& stops) {
    return std::find(stops.begin(), stops.end(), token) != stops.end();
  };
  return has(entry.request.stop_token_ids) || (!entry.request.ignore_eos && has(eos_));
}

void Ledger::OnToken(RequestId id, const SampledToken& token) {
  LedgerEntry& entry = entries_.at(id);
  const int position = static_cast<int>(entry.all.size());
  if (entry.ends > 0) {
    AddViolation(absl::StrCat(id.ToString(), ": a token came after the end"));
  }
  if (token.request != id || token.position != position) {
    AddViolation(absl::StrCat(id.ToString(), ": a token of ", token.request.ToString(),
                              " for position ", token.position, " came at ", position));
  }
  if (entry.generated > 0 && IsStop(entry, entry.all.back())) {
    AddViolation(absl::StrCat(id.ToString(), ": a token came after the stop token"));
  }
  const int32_t expected = FakeNextToken(entry.all, vocab_);
  if (token.token != expected) {
    AddViolation(absl::StrCat(id.ToString(), ": got token ", token.token, " at position ", position,
                              ", the oracle says ", expected));
  }
  entry.all.push_back(token.token);
  ++entry.generated;
}

// The fake engine reports a one-hot row: 1 at the token that follows.
void Ledger::OnLogits(RequestId id, int32_t position, int32_t vocab,
                      absl::Span<const float> values) {
  LedgerEntry& entry = entries_.at(id);
  if (entry.ends > 0 || !entry.request.want_logits || vocab != vocab_ ||
      position != entry.logits_positions || values.size() % vocab != 0) {
    AddViolation(absl::StrCat(id.ToString(), ": logits at position ", position, ", expected ",
                              entry.logits_positions));
    return;
  }
  for (size_t row = 0; row < values.size() / vocab; ++row) {
    const int next = ++entry.logits_positions;
    if (next > static_cast<int>(entry.request.prompt.size())) {
      AddViolation(absl::StrCat(id.ToString(), ": logits beyond the prompt"));
      return;
    }
    const int32_t token = FakeNextToken(absl::MakeConstSpan(entry.all).first(next), vocab_);
    if (values[row * vocab + token] != 1.0f) {
      AddViolation(absl::StrCat(id.ToString(), ": wrong logits at position ", next - 1));
    }
  }
}

void Ledger::OnFinish(RequestId id, FinishReason reason, const absl::Status& status) {
  LedgerEntry& entry = entries_.at(id);
  if (++entry.ends > 1) {
    AddViolation(absl::StrCat(id.ToString(), ": ended ", entry.ends, " times"));
    return;
  }
  --open_;
  entry.reason = reason;
  entry.status = status;
  CheckEnd(id, entry);
}

void Ledger::CheckEnd(RequestId id, const LedgerEntry& entry) {
  const GenerationRequest& request = entry.request;
  bool fits = false;
  switch (entry.reason) {
    case FinishReason::kLength:
      fits = entry.generated == request.tokens_max;
      break;
    case FinishReason::kStop:
      fits = entry.generated > 0 && IsStop(entry, entry.all.back());
      break;
    case FinishReason::kCancelled:
      fits = entry.cancelled;
      break;
    case FinishReason::kError:
      fits = absl::IsUnavailable(entry.status) || absl::IsResourceExhausted(entry.status);
      break;
  }
  if (entry.status.ok() != (entry.reason != FinishReason::kError)) fits = false;
  const bool complete =
      entry.reason == FinishReason::kLength || entry.reason == FinishReason::kStop;
  if (complete && request.want_logits &&
      entry.logits_positions != static_cast<int>(request.prompt.size())) {
    fits = false;
  }
  if (fits) return;
  AddViolation(absl::StrCat(id.ToString(), ": ended with reason ", static_cast<int>(entry.reason),
                            " after ", entry.generated, " of ", request.tokens_max, " tokens and ",
                            entry.logits_positions, " logits of ", request.prompt.size(), ": ",
                            entry.status.ToString()));
}

}  // namespace conclave
