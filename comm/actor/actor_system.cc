#include "comm/actor/actor_system.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <optional>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "comm/actor/sequence.h"
#include "comm/actor/timer_queue.h"
#include "comm/channel/complaints.h"
#include "comm/codec/codec.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Longest sleep without a timer: a bound on every wait.
constexpr absl::Duration kPollMax = absl::Seconds(1);

// Timers fired before messages get their turn.
constexpr int kTimersPerTurnMax = 1024;

// The time of day at its making, advanced by the steady clock: it never jumps.
class MonotonicClock {
 public:
  absl::Time Now() const {
    return wall_ + absl::FromChrono(std::chrono::steady_clock::now() - steady_);
  }

 private:
  const absl::Time wall_ = absl::Now();
  const std::chrono::steady_clock::time_point steady_ = std::chrono::steady_clock::now();
};

uint64_t SeedOrEntropy(uint64_t seed) {
  if (seed != 0) return seed;
  std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

}  // namespace

class ActorSystem::Impl final : public ActorContext {
 public:
  Impl(std::unique_ptr<Channel> channel, Options options)
      : posts_max_(options.posts_max),
        channel_(std::move(channel)),
        rng_(SeedOrEntropy(options.rng_seed)),
        // Microseconds since 1970: no process sends a million messages a second to one peer, so
        // that a later start always counts from above.
        sequences_(static_cast<uint64_t>(absl::ToUnixMicros(clock_.Now()))) {}

  absl::Status Run(Actor& actor) {
    CHECK(!started_) << "ActorSystem::Run is called once";
    started_ = true;
    actor.OnStart(*this);
    while (!StopWanted()) {
      RunPosts();
      if (!StopWanted()) FireTimers(actor);
      if (!StopWanted()) HandleEvents(actor, channel_->Poll(PollTimeout()));
    }
    return Close();
  }

  bool Post(std::function<void(ActorContext&)> work) {
    bool first;
    {
      absl::MutexLock lock(&mutex_);
      if (closed_ || stop_requested_.has_value() || posts_.size() >= posts_max_) return false;
      first = posts_.empty();
      posts_.push_back(std::move(work));
    }
    // Whoever found the queue empty wakes; the others' work is taken along.
    if (first) channel_->Wake();
    return true;
  }

  void RequestStop(absl::Status reason) {
    {
      absl::MutexLock lock(&mutex_);
      if (stop_requested_.has_value()) return;
      stop_requested_ = std::move(reason);
      stop_wanted_.store(true);
    }
    channel_->Wake();
  }

  Stats stats() const { return stats_; }

  // ---- ActorContext; the thread in Run

  void Send(const PeerId& to, Epoch epoch, WorkerId worker, Message message) override {
    const Envelope envelope = {epoch, worker, sequences_.Next(to), std::move(message)};
    const absl::Status sent = channel_->Send(to, Encode(envelope));
    if (sent.ok()) {
      ++stats_.frames_sent;
      return;
    }
    ++stats_.frames_unsent;
    unsent_.Add(Now(), absl::StrCat("a ", MessageName(envelope.message), " to ", to,
                                    " is lost: ", sent.message()));
  }

  void SetTimer(uint64_t tag, absl::Duration delay) override {
    timers_.Set(tag, Now() + std::max(delay, absl::ZeroDuration()));
  }
  void CancelTimer(uint64_t tag) override { timers_.Cancel(tag); }
  absl::Time Now() const override { return clock_.Now(); }
  Rng& rng() override { return rng_; }
  void Stop(absl::Status reason) override { RequestStop(std::move(reason)); }

 private:
  bool StopWanted() const { return stop_wanted_.load(); }

  void RunPosts() {
    std::vector<std::function<void(ActorContext&)>> posts;
    {
      absl::MutexLock lock(&mutex_);
      posts.swap(posts_);
    }
    for (auto& work : posts) {
      if (StopWanted()) return;
      work(*this);
    }
  }

  void FireTimers(Actor& actor) {
    const absl::Time now = Now();
    for (int fired = 0; fired < kTimersPerTurnMax && !StopWanted(); ++fired) {
      const std::optional<uint64_t> tag = timers_.PopDue(now);
      if (!tag.has_value()) return;
      actor.OnTimer(*this, *tag);
    }
  }

  absl::Duration PollTimeout() const {
    const absl::Duration wait = timers_.Next() - Now();
    return std::clamp(wait, absl::ZeroDuration(), kPollMax);
  }

  void HandleEvents(Actor& actor, const std::vector<ChannelEvent>& events) {
    for (const ChannelEvent& event : events) {
      if (StopWanted()) return;
      if (event.kind == ChannelEvent::Kind::kPeerLost) {
        actor.OnPeerLost(*this, event.peer);
      } else {
        HandleFrame(actor, event);
      }
    }
  }

  void HandleFrame(Actor& actor, const ChannelEvent& event) {
    const absl::StatusOr<Envelope> envelope = Decode(event.frame);
    if (!envelope.ok()) {
      ++stats_.frames_bad;
      bad_.Add(Now(), absl::StrCat("a message of ", event.peer,
                                   " is dropped: ", envelope.status().message()));
      return;
    }
    if (!filter_.Accept(event.peer, envelope->worker, envelope->sequence)) {
      ++stats_.frames_repeated;
      return;
    }
    ++stats_.frames_received;
    actor.OnMessage(*this, event.peer, *envelope);
  }

  absl::Status Close() {
    std::vector<std::function<void(ActorContext&)>> unrun;  // destroyed without the lock
    absl::MutexLock lock(&mutex_);
    closed_ = true;
    unrun.swap(posts_);
    return *stop_requested_;
  }

  const size_t posts_max_;
  const std::unique_ptr<Channel> channel_;
  const MonotonicClock clock_;
  bool started_ = false;
  Rng rng_;
  TimerQueue timers_;
  SequenceSource sequences_;
  SequenceFilter filter_;
  Stats stats_;
  Complaints bad_;
  Complaints unsent_;

  std::atomic<bool> stop_wanted_ = false;  // stop_requested_ has a value
  absl::Mutex mutex_;
  std::vector<std::function<void(ActorContext&)>> posts_ ABSL_GUARDED_BY(mutex_);
  std::optional<absl::Status> stop_requested_ ABSL_GUARDED_BY(mutex_);
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

ActorSystem::ActorSystem(std::unique_ptr<Channel> channel, Options options)
    : impl_(std::make_unique<Impl>(std::move(channel), options)) {}
ActorSystem::~ActorSystem() = default;

absl::Status ActorSystem::Run(Actor& actor) { return impl_->Run(actor); }

bool ActorSystem::Post(std::function<void(ActorContext&)> work) {
  return impl_->Post(std::move(work));
}

void ActorSystem::RequestStop(absl::Status reason) { impl_->RequestStop(std::move(reason)); }

ActorSystem::Stats ActorSystem::stats() const { return impl_->stats(); }

}  // namespace conclave
