// ActorSystem: runs one actor of this process on the calling thread, over a Channel: messages,
// timers, and closures that other threads post (HTTP handlers, the engine thread). Post and
// RequestStop are thread-safe; the rest belongs to the thread in Run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "comm/actor/actor.h"
#include "comm/channel/channel.h"

namespace conclave {

// How other threads reach an actor. Thread-safe.
class Mailbox {
 public:
  virtual ~Mailbox() = default;
  // Runs `work` on the actor's thread, soon, in order of posting. False (and `work` never runs)
  // when the actor has stopped or its bounded queue is full.
  virtual bool Post(std::function<void(ActorContext&)> work) = 0;
};

class ActorSystem : public Mailbox {
 public:
  struct Options {
    uint64_t rng_seed = 0;     // 0: drawn from the system's entropy
    size_t posts_max = 65536;  // closures that wait; Post refuses beyond
  };
  struct Stats {
    uint64_t frames_received = 0;  // that the actor saw
    uint64_t frames_bad = 0;       // dropped: Decode refused them
    uint64_t frames_repeated = 0;  // dropped: repeated or overtaken
    uint64_t frames_sent = 0;
    uint64_t frames_unsent = 0;  // lost: the channel refused them
  };
  ActorSystem(std::unique_ptr<Channel> channel, Options options);
  ~ActorSystem() override;

  // Runs until ctx.Stop or RequestStop; returns the reason. `actor` outlives the call.
  absl::Status Run(Actor& actor);

  bool Post(std::function<void(ActorContext&)> work) override;

  // Makes Run return `reason` after the current callback. Async-signal-unsafe: call it from a
  // signal-waiting thread.
  void RequestStop(absl::Status reason);

  // For the thread in Run, or once Run has returned.
  Stats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave
