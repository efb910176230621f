// The raw pieces that both ends of a ZeroMQ channel are made of: a context and its sockets as
// resources, a monitor of a socket's connections, and a wait over all of them that other threads
// can end. Internal to comm/channel; owned by a channel, its thread only, but for Waker::Wake.
#pragma once

#include <zmq.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

// One I/O thread carries the control plane of a process: 160,000 small CURVE messages a second.
class ZmqContext {
 public:
  ZmqContext() : context_(zmq_ctx_new()) {}
  ~ZmqContext();
  ZmqContext(const ZmqContext&) = delete;
  ZmqContext& operator=(const ZmqContext&) = delete;
  void* get() const { return context_; }

 private:
  void* const context_;
};

// A received frame, valid until the next one is received into it.
class ZmqFrame {
 public:
  ZmqFrame() { zmq_msg_init(&message_); }
  ~ZmqFrame() { zmq_msg_close(&message_); }
  ZmqFrame(const ZmqFrame&) = delete;
  ZmqFrame& operator=(const ZmqFrame&) = delete;

  absl::string_view bytes() {
    return {static_cast<const char*>(zmq_msg_data(&message_)), zmq_msg_size(&message_)};
  }
  // True when more frames of the same message follow.
  bool more() { return zmq_msg_more(&message_) != 0; }
  // "User-Id": what the authenticator said of the connection. Empty when unknown.
  absl::string_view Property(const char* name) {
    const char* value = zmq_msg_gets(&message_, name);
    return value == nullptr ? absl::string_view() : absl::string_view(value);
  }
  // The socket descriptor it came over; -1 when unknown.
  int descriptor() { return zmq_msg_get(&message_, ZMQ_SRCFD); }
  zmq_msg_t* get() { return &message_; }

 private:
  zmq_msg_t message_;
};

class ZmqSocket {
 public:
  ZmqSocket(const ZmqContext& context, int type);
  ~ZmqSocket();
  ZmqSocket(const ZmqSocket&) = delete;
  ZmqSocket& operator=(const ZmqSocket&) = delete;

  // An option that libzmq refuses is a bug of ours: CHECK.
  void Set(int option, int value);
  void Set(int option, int64_t value);
  void Set(int option, const std::string& value);

  // 0, or the errno.
  int Bind(const std::string& endpoint);
  int Connect(const std::string& endpoint);
  int Disconnect(const std::string& endpoint);
  std::string LastEndpoint() const;

  // 0, or the errno: EAGAIN when the queue is full, EHOSTUNREACH when a ROUTER knows no such peer.
  int Send(absl::string_view bytes, bool more);
  // False when nothing is there.
  bool Receive(ZmqFrame& frame);
  // All frames of one message, at most `frames_max` of them kept; empty when nothing is there.
  std::vector<std::string> ReceiveMessage(size_t frames_max);

  void* get() const { return socket_; }

 private:
  void* const socket_;
};

// One connection event of a monitored socket.
struct ZmqConnectionEvent {
  uint16_t event = 0;  // ZMQ_EVENT_*
  uint32_t value = 0;  // descriptor, errno or status code, as the event says
};

// Reports the connections of `socket`; goes before it.
class ZmqMonitor {
 public:
  ZmqMonitor(const ZmqContext& context, ZmqSocket& socket);
  ~ZmqMonitor();
  std::optional<ZmqConnectionEvent> Next();
  void* get() const { return reader_.get(); }

 private:
  ZmqSocket& socket_;
  ZmqSocket reader_;
};

// An event descriptor that ends a wait. Wake is thread-safe.
class Waker {
 public:
  Waker();
  ~Waker();
  Waker(const Waker&) = delete;
  Waker& operator=(const Waker&) = delete;
  void Wake();
  void Clear();
  int descriptor() const { return descriptor_; }

 private:
  const int descriptor_;
};

// Sleeps until one of `sockets` can be read, `waker` is woken (and clears it), or `timeout` has
// passed.
void WaitForInput(const std::vector<void*>& sockets, Waker& waker, absl::Duration timeout);

// Bounds and liveness that every socket of the control plane has (FACTS, "libzmq 4.3.4").
struct ZmqTuning {
  int64_t frame_bytes_max = 0;
  int queue_messages_max = 4096;  // of one peer, each way
};
void Tune(ZmqSocket& socket, const ZmqTuning& tuning);

}  // namespace conclave
