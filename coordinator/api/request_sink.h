// RequestSink: where the actor drops the progress of one request, and from where the API thread
// takes it. The actor never waits: tokens go into a bounded buffer, and the API thread is woken
// once for a burst of requests, not once a token. A SinkInbox belongs to the ApiServer and is
// shared with the sinks, which may outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

class RequestSink;

// Sinks with news, for the API thread. Thread-safe. Holds each sink at most once, so it is bounded
// by the open requests.
class SinkInbox {
 public:
  // `wake` makes the API thread call Drain soon; it is called by any thread, without locks held.
  explicit SinkInbox(std::function<void()> wake) : wake_(std::move(wake)) {}

  void Add(std::shared_ptr<RequestSink> sink);
  // API thread: tells the listener of every sink that has news.
  void Drain();
  // No more wakes; what is held is let go.
  void Close();

 private:
  const std::function<void()> wake_;
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<RequestSink>> sinks_ ABSL_GUARDED_BY(mutex_);
  bool awake_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

// What happened to a request since it was last asked.
struct RequestNews {
  std::vector<int32_t> tokens;
  bool finished = false;
  FinishReason reason = FinishReason::kStop;
  absl::Status status;      // of kError
  bool overflowed = false;  // tokens were lost: the API thread fell too far behind
};

class RequestSink : public GenerationSink, public std::enable_shared_from_this<RequestSink> {
 public:
  // `listener` runs on the API thread when there is news, until SetListener(nullptr).
  RequestSink(std::shared_ptr<SinkInbox> inbox, size_t tokens_max)
      : inbox_(std::move(inbox)), tokens_max_(tokens_max) {}

  // API thread.
  void SetListener(std::function<void()> listener) { listener_ = std::move(listener); }
  void Notify();
  RequestNews Take();

  // The actor's thread.
  void OnToken(const SampledToken& token) override;
  void OnFinish(FinishReason reason, const absl::Status& status) override;

 private:
  void Announce();

  const std::shared_ptr<SinkInbox> inbox_;
  const size_t tokens_max_;
  std::function<void()> listener_;  // API thread only
  absl::Mutex mutex_;
  RequestNews news_ ABSL_GUARDED_BY(mutex_);
  bool announced_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace conclave
