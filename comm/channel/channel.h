// Channel: frames between this process and its peers, in order per peer, at most once, possibly
// lost when a peer goes. One thread owns it (the actor's); only Wake may be called from others.
// Implementations: zmq_channel (CURVE), sim.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

struct ChannelEvent {
  enum class Kind : uint8_t { kFrame, kPeerLost };
  Kind kind = Kind::kFrame;
  std::string peer;   // the name the peer authenticated with; kCoordinatorPeer on a worker
  std::string frame;  // kFrame only
};

class Channel {
 public:
  virtual ~Channel() = default;

  // Queues a frame. Unavailable when the peer is not connected, ResourceExhausted when its queue is
  // full; never blocks.
  virtual absl::Status Send(const std::string& peer, absl::string_view frame) = 0;

  // Waits up to `timeout` for events or Wake; returns what there is (bounded per call), maybe
  // nothing.
  virtual std::vector<ChannelEvent> Poll(absl::Duration timeout) = 0;

  // Makes a Poll that runs or comes next return at once. Thread-safe.
  virtual void Wake() = 0;

  // "tcp://127.0.0.1:41235": where peers connect, with the port the system chose. Empty on a client
  // side.
  virtual std::string endpoint() const = 0;
};

}  // namespace conclave
