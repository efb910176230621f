// SimActorSystem: a whole cluster in one thread under virtual time, from one seed. The same actors
// that run in processes exchange messages over a SimNetwork (through the real codec), and can be
// crashed, restarted and paused. Two runs of a seed execute the same events in the same order:
// log_hash() tells. Testonly; one thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "comm/actor/actor.h"
#include "comm/actor/actor_system.h"
#include "comm/actor/sim_event.h"
#include "comm/actor/sim_network.h"

namespace conclave {

class SimActorSystem {
 public:
  struct Options {
    uint64_t seed = 0;
    NetworkOptions network;
    bool through_codec = true;    // encode and decode every message, as the real system does
    bool peer_lost_hints = true;  // peers of a crashed actor hear of it, as sockets tell
    size_t posts_max = 65536;     // waiting posts of one actor
    size_t backlog_max = 16384;   // messages that wait for a paused actor; beyond, they are lost
    size_t events_max = 1 << 22;  // pending events in all; more is a runaway and a CHECK
  };
  struct Stats {
    uint64_t events = 0;     // executed
    uint64_t delivered = 0;  // messages that actors saw
    uint64_t repeated = 0;   // dropped as repeated or overtaken
    uint64_t to_nobody = 0;  // the receiver was down or unknown
    uint64_t backlog_dropped = 0;
    uint64_t refused = 0;  // dropped: Decode refused what Encode made
    size_t pending_peak = 0;
    size_t backlog_peak = 0;
  };
  // Makes an actor for a new life of its peer. What must survive a crash lives outside and is
  // captured.
  using ActorFactory = std::function<std::unique_ptr<Actor>()>;
  using Work = std::function<void(ActorContext&)>;

  explicit SimActorSystem(Options options);
  ~SimActorSystem();

  // ---- actors. Unknown names are a CHECK.

  // Makes the actor now; its OnStart is the next event at this instant.
  void AddActor(const PeerId& peer, ActorFactory factory);
  // SIGKILL: the actor is destroyed, its timers and posts vanish; what it sent is still on its way.
  void Crash(const PeerId& peer);
  // A new process of the same name; crashes the old one first if it lives.
  void Restart(const PeerId& peer);
  // SIGSTOP: messages, timers and posts wait until Resume.
  void Pause(const PeerId& peer);
  void Resume(const PeerId& peer);
  bool Alive(const PeerId& peer) const;
  bool Paused(const PeerId& peer) const;
  // Null while it is down.
  Actor* actor(const PeerId& peer);
  // Why the actor's present or last life called Stop; nullopt if it did not.
  std::optional<absl::Status> StopReason(const PeerId& peer) const;
  const std::vector<PeerId>& peers() const;

  SimNetwork& network();

  // ---- what comes from outside the actors

  // As Mailbox::Post on the present life; false when it is down or has posts_max waiting.
  bool Post(const PeerId& peer, Work work) {
    return PostAfter(peer, absl::ZeroDuration(), std::move(work));
  }
  // The same, after `delay`: the end of something that takes time, such as a step of an engine.
  bool PostAfter(const PeerId& peer, absl::Duration delay, Work work);
  // Posts to whatever life the peer has. Lives as long as this system.
  Mailbox& mailbox(const PeerId& peer);
  // Runs `work` at virtual time `when` (now, if that has passed): workload and nemesis.
  void At(absl::Time when, std::function<void()> work);
  void After(absl::Duration delay, std::function<void()> work) {
    At(Now() + delay, std::move(work));
  }

  // ---- time, from SimEpoch()

  absl::Time Now() const;
  // Executes the next event; false when nothing is pending.
  bool Step();
  void RunUntil(absl::Time when);
  void RunFor(absl::Duration duration) { RunUntil(Now() + duration); }
  // Until done() holds after an event; false when it did not within `limit`.
  bool RunUntilTrue(const std::function<bool()>& done, absl::Duration limit);

  // Called before each event is executed. It may crash, pause and partition; a peer it crashes does
  // not see the event.
  void SetObserver(std::function<void(const SimEvent&)> observer);

  // Digest of (order, time, from, to, kind, bytes) of all events executed: equal for equal runs.
  uint64_t log_hash() const;
  Stats stats() const;

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave
