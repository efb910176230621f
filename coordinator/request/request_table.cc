#include "coordinator/request/request_table.h"

#include <utility>

#include "glog/logging.h"

namespace conclave {

void RequestTable::Add(RequestId id, size_t prompt_tokens, std::shared_ptr<GenerationSink> sink,
                       absl::Time now) {
  CHECK(sink != nullptr);
  const bool added = entries_.emplace(id, Entry{std::move(sink), now, {}}).second;
  CHECK(added) << id << " exists";
  totals_.prompt_tokens += static_cast<int64_t>(prompt_tokens);
}

void RequestTable::OnToken(const SampledToken& token) {
  const auto it = entries_.find(token.request);
  if (it == entries_.end()) return;
  it->second.generated.push_back(token.token);
  ++totals_.generated_tokens;
  it->second.sink->OnToken(token);
}

void RequestTable::OnLogits(const Logits& logits) {
  const auto it = entries_.find(logits.request);
  if (it == entries_.end()) return;
  it->second.sink->OnLogits(logits.position, logits.vocab, logits.values);
}

bool RequestTable::Finish(RequestId id, FinishReason reason, const absl::Status& status) {
  CHECK_EQ(status.ok(), reason != FinishReason::kError);
  const auto node = entries_.extract(id);
  if (node.empty()) return false;
  ++totals_.finished;
  node.mapped().sink->OnFinish(reason, status);
  return true;
}

std::vector<RequestId> RequestTable::SubmittedBefore(absl::Time time) const {
  std::vector<RequestId> ids;
  for (const auto& [id, entry] : entries_) {
    if (entry.submitted < time) ids.push_back(id);
  }
  return ids;
}

const std::vector<int32_t>* RequestTable::Generated(RequestId id) const {
  const auto it = entries_.find(id);
  return it == entries_.end() ? nullptr : &it->second.generated;
}

}  // namespace conclave
