#include "coordinator/api/request_sink.h"

#include <utility>

namespace conclave {

void SinkInbox::Add(std::shared_ptr<RequestSink> sink) {
  {
    absl::MutexLock lock(&mutex_);
    if (closed_) return;
    sinks_.push_back(std::move(sink));
    if (std::exchange(awake_, true)) return;
  }
  wake_();
}

void SinkInbox::Drain() {
  std::vector<std::shared_ptr<RequestSink>> sinks;
  {
    absl::MutexLock lock(&mutex_);
    sinks.swap(sinks_);
    awake_ = false;
  }
  for (const std::shared_ptr<RequestSink>& sink : sinks) sink->Notify();
}

void SinkInbox::Close() {
  std::vector<std::shared_ptr<RequestSink>> sinks;
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  sinks.swap(sinks_);
}

void RequestSink::Notify() {
  // A copy: the listener may replace itself.
  const std::function<void()> listener = listener_;
  if (listener) listener();
}

RequestNews RequestSink::Take() {
  absl::MutexLock lock(&mutex_);
  announced_ = false;
  RequestNews news = std::exchange(news_, RequestNews());
  news_.overflowed = news.overflowed;
  return news;
}

void RequestSink::OnToken(const SampledToken& token) {
  {
    absl::MutexLock lock(&mutex_);
    if (news_.tokens.size() < tokens_max_) {
      news_.tokens.push_back(token.token);
    } else {
      news_.overflowed = true;
    }
    if (std::exchange(announced_, true)) return;
  }
  Announce();
}

void RequestSink::OnFinish(FinishReason reason, const absl::Status& status) {
  {
    absl::MutexLock lock(&mutex_);
    news_.finished = true;
    news_.reason = reason;
    news_.status = status;
    if (std::exchange(announced_, true)) return;
  }
  Announce();
}

void RequestSink::Announce() { inbox_->Add(shared_from_this()); }

}  // namespace conclave
