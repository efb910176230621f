// ActorTestKit: runs one actor by hand under virtual time. A test delivers messages, expects what
// the actor sent and advances the clock; timers fire in order. Sent messages wait until they are
// expected, ignored or discarded, each peer's in order. Testonly; one thread; the actor outlives
// the kit.
//
//   ActorTestKit kit(actor);
//   kit.Start();
//   kit.Deliver("worker-1", Epoch{0}, WorkerId{7}, Hello{.name = "worker-1"});
//   const Assign assign = kit.ExpectSent<Assign>("worker-1");
//   kit.Advance(absl::Seconds(1));
//   kit.ExpectNothingSent();
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <string>
#include <type_traits>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "comm/actor/actor.h"
#include "comm/actor/actor_system.h"
#include "comm/actor/sequence.h"
#include "comm/actor/timer_queue.h"
#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {

class ActorTestKit final : public ActorContext, public Mailbox {
 public:
  struct SentMessage {
    PeerId to;
    Envelope envelope;
  };
  using Work = std::function<void(ActorContext&)>;

  explicit ActorTestKit(Actor& actor, uint64_t seed = 1) : actor_(actor), rng_(seed) {}

  // ---- what the world does

  void Start() {
    Run([this] { actor_.OnStart(*this); });
  }
  void Deliver(const PeerId& from, Epoch epoch, WorkerId worker, Message message) {
    DeliverEnvelope(from, {epoch, worker, incoming_.Next(from), std::move(message)});
  }
  // As it is: for repeated and stale sequence numbers.
  void DeliverEnvelope(const PeerId& from, const Envelope& envelope) {
    Run([&] { actor_.OnMessage(*this, from, envelope); });
  }
  void LosePeer(const PeerId& peer) {
    Run([&] { actor_.OnPeerLost(*this, peer); });
  }
  // Passes the time, firing the timers that fall due, each at its own instant.
  void Advance(absl::Duration duration) {
    const absl::Time end = now_ + duration;
    while (timers_.Next() <= end) {
      now_ = std::max(now_, timers_.Next());
      const std::optional<uint64_t> tag = timers_.PopDue(now_);
      Run([&] { actor_.OnTimer(*this, *tag); });
    }
    now_ = end;
  }

  // ---- what the test expects

  // The oldest waiting message to `to`, which must be a T.
  template <typename T>
  T ExpectSent(const PeerId& to) {
    const std::optional<Envelope> envelope = TakeSent(to);
    if (!envelope.has_value()) {
      ADD_FAILURE() << "expected a " << MessageName(Message(T{})) << " to " << to
                    << "; nothing to it waits. Sent: " << DescribeSent();
      return T{};
    }
    last_ = *envelope;
    if (const T* message = std::get_if<T>(&last_.message)) return *message;
    ADD_FAILURE() << "expected a " << MessageName(Message(T{})) << " to " << to << " but a "
                  << MessageName(last_.message) << " was sent";
    return T{};
  }
  // What the last ExpectSent took, with its epoch and worker.
  const Envelope& last_envelope() const { return last_; }

  void ExpectNothingSent() {
    EXPECT_TRUE(sent_.empty()) << "sent unexpectedly: " << DescribeSent();
    sent_.clear();
  }

  // From now on, messages of kind T are counted but not kept: noise such as heartbeats.
  template <typename T>
  void Ignore() {
    ignored_[Message(T{}).index()] = true;
    std::erase_if(sent_, [](const SentMessage& sent) {
      return std::holds_alternative<T>(sent.envelope.message);
    });
  }
  // Messages of kind T sent so far, ignored ones too.
  template <typename T>
  size_t SentCount() const {
    return counts_[Message(T{}).index()];
  }

  std::optional<Envelope> TakeSent(const PeerId& to) {
    const auto it = std::find_if(sent_.begin(), sent_.end(),
                                 [&](const SentMessage& sent) { return sent.to == to; });
    if (it == sent_.end()) return std::nullopt;
    Envelope envelope = std::move(it->envelope);
    sent_.erase(it);
    return envelope;
  }
  void DiscardSent() { sent_.clear(); }
  const std::deque<SentMessage>& sent() const { return sent_; }

  // Set once the actor has called Stop.
  const std::optional<absl::Status>& stopped() const { return stopped_; }
  bool TimerPending(uint64_t tag) const { return timers_.Pending(tag); }
  absl::Time now() const { return now_; }

  // ---- ActorContext

  void Send(const PeerId& to, Epoch epoch, WorkerId worker, Message message) override {
    const size_t kind = message.index();
    ++counts_[kind];
    const uint64_t sequence = outgoing_.Next(to);
    if (ignored_[kind]) return;
    sent_.push_back({to, {epoch, worker, sequence, std::move(message)}});
  }
  void SetTimer(uint64_t tag, absl::Duration delay) override {
    timers_.Set(tag, now_ + std::max(delay, absl::ZeroDuration()));
  }
  void CancelTimer(uint64_t tag) override { timers_.Cancel(tag); }
  absl::Time Now() const override { return now_; }
  Rng& rng() override { return rng_; }
  void Stop(absl::Status reason) override {
    if (!stopped_.has_value()) stopped_ = std::move(reason);
  }

  // ---- Mailbox: runs at once, or after the callback that posts it.

  bool Post(Work work) override {
    if (stopped_.has_value()) return false;
    if (running_) {
      posts_.push_back(std::move(work));
    } else {
      Run([&] { work(*this); });
    }
    return true;
  }

 private:
  // One callback and the posts it made. A stopped actor gets no more.
  void Run(const std::function<void()>& callback) {
    ASSERT_FALSE(running_) << "callbacks do not nest";
    running_ = true;
    if (!stopped_.has_value()) callback();
    while (!stopped_.has_value() && !posts_.empty()) {
      const Work work = std::move(posts_.front());
      posts_.pop_front();
      work(*this);
    }
    running_ = false;
  }

  std::string DescribeSent() const {
    std::string text;
    for (const SentMessage& sent : sent_) {
      absl::StrAppend(&text, text.empty() ? "" : ", ", MessageName(sent.envelope.message), " to ",
                      sent.to);
    }
    return text.empty() ? "nothing" : text;
  }

  Actor& actor_;
  Rng rng_;
  absl::Time now_ = absl::FromUnixSeconds(1'900'000'000);
  TimerQueue timers_;
  SequenceSource incoming_;
  SequenceSource outgoing_;
  std::deque<SentMessage> sent_;
  std::deque<Work> posts_;
  std::array<size_t, std::variant_size_v<Message>> counts_ = {};
  std::array<bool, std::variant_size_v<Message>> ignored_ = {};
  Envelope last_;
  std::optional<absl::Status> stopped_;
  bool running_ = false;
};

}  // namespace conclave
