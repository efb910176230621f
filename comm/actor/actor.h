// Actor: a state machine that owns one part of the cluster's state. It runs on one thread at a
// time, never blocks, never locks, and acts on the world only through ActorContext; so the same
// code runs in a process and in the simulator. Decisions inside an actor are plain functions and
// state machines; the actor is the shell that sends what they decide.
#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "comm/base/rng.h"
#include "comm/types/envelope.h"

namespace conclave {

// Who a message goes to or comes from: the channel's name of a process. The coordinator is
// kCoordinatorPeer.
using PeerId = std::string;
inline constexpr char kCoordinatorPeer[] = "coordinator";

// The only effects an actor has. Valid during a callback.
class ActorContext {
 public:
  virtual ~ActorContext() = default;

  // Sends without waiting. A peer that is unknown or whose queue is full loses the message, as a
  // network may: the protocol repeats what matters. Sequence numbers are filled in here.
  virtual void Send(const PeerId& to, Epoch epoch, WorkerId worker, Message message) = 0;

  // Calls Actor::OnTimer(tag) after `delay`; a later SetTimer with the same tag replaces it.
  virtual void SetTimer(uint64_t tag, absl::Duration delay) = 0;
  virtual void CancelTimer(uint64_t tag) = 0;

  virtual absl::Time Now() const = 0;
  virtual Rng& rng() = 0;

  // Ends the actor's process (or its simulated life) after the current callback.
  virtual void Stop(absl::Status reason) = 0;
};

class Actor {
 public:
  virtual ~Actor() = default;
  virtual void OnStart(ActorContext& ctx) = 0;
  virtual void OnMessage(ActorContext& ctx, const PeerId& from, const Envelope& envelope) = 0;
  virtual void OnTimer(ActorContext& ctx, uint64_t tag) = 0;
  // The transport saw the peer go (a hint that speeds detection; heartbeats decide) or come.
  virtual void OnPeerLost(ActorContext& ctx, const PeerId& peer) {}
};

}  // namespace conclave
