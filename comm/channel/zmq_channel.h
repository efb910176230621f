// Channels over ZeroMQ, encrypted and authenticated with CURVE (ZeroMQ RFC 26), always. The
// coordinator listens (ROUTER) and admits the public keys it allows; a worker connects (DEALER)
// under its name and insists on the coordinator's key. Owned by one thread, the actor's; only Wake
// may be called from others.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/channel/channel.h"
#include "comm/channel/curve_keys.h"

namespace conclave {

// Largest frame sent or received; a peer that sends more is cut off. kFrameBytesMax of the codec.
inline constexpr size_t kChannelFrameBytesMax = 8 << 20;

// Longest name of a peer.
inline constexpr size_t kPeerNameBytesMax = 255;

struct ZmqServerOptions {
  std::string endpoint = "tcp://127.0.0.1:*";  // "*": a port of the system's choice
  CurveKeys keys;
  std::vector<std::string> allowed_keys;  // public keys of clients
  std::string allowed_folder;             // more of them, "*.pub"; read at each handshake
};

// Peers are known by the names they connect under. A name belongs to the key that used it first,
// until that connection ends; a reconnecting peer takes its name over. InvalidArgument for a
// malformed endpoint or key; Unavailable when the endpoint is occupied.
absl::StatusOr<std::unique_ptr<Channel>> ListenZmq(ZmqServerOptions options);

struct ZmqClientOptions {
  std::string endpoint;    // "tcp://10.0.0.1:7070"
  std::string server_key;  // its public key
  CurveKeys keys;
  std::string name;                         // 1..kPeerNameBytesMax bytes; what the server calls us
  std::string server_peer = "coordinator";  // what we call the server
};

class ZmqClientChannel : public Channel {
 public:
  // Starts to connect, and goes on trying for ever. InvalidArgument for a malformed endpoint, key
  // or name.
  static absl::StatusOr<std::unique_ptr<ZmqClientChannel>> Connect(ZmqClientOptions options);

  // Ok once connected. Unavailable says why not: at once when the server refuses our key or is not
  // the one with server_key, otherwise when nothing has answered for `timeout`. Frames that arrive
  // wait for Poll.
  virtual absl::Status AwaitConnected(absl::Duration timeout) = 0;

  // The state as of the last Poll: Ok, or what is wrong with the connection and what to do about
  // it.
  virtual absl::Status connection() const = 0;
};

}  // namespace conclave
