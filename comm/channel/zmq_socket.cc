#include "comm/channel/zmq_socket.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "glog/logging.h"

namespace conclave {
namespace {

// ZMTP heartbeats stay off: libzmq 4.3.4 aborts ("!_io_error") when a peer goes while its frames
// fill our queue and a heartbeat falls due. The actors' own heartbeats see a peer that hangs; they
// also keep data under way, whose acknowledgement the kernel waits for no longer than this.
constexpr absl::Duration kAcknowledgeMax = absl::Seconds(1);
constexpr absl::Duration kReconnectMin = absl::Milliseconds(50);
constexpr absl::Duration kReconnectMax = absl::Seconds(1);
constexpr absl::Duration kHandshakeMax = absl::Seconds(5);
// What is queued when a process ends may take so long to leave.
constexpr absl::Duration kLinger = absl::Milliseconds(200);
constexpr int kBacklog = 1024;  // connections that wait: a cluster starts at once

// Of an encrypted message, with room to spare.
constexpr int64_t kCurveOverheadBytes = 4096;

constexpr int kMonitoredEvents =
    ZMQ_EVENT_CONNECT_RETRIED | ZMQ_EVENT_DISCONNECTED | ZMQ_EVENT_HANDSHAKE_SUCCEEDED |
    ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL | ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL |
    ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;

constexpr char kMonitorEndpoint[] = "inproc://monitor";

int Milliseconds(absl::Duration duration) {
  return static_cast<int>(absl::ToInt64Milliseconds(duration));
}

}  // namespace

ZmqContext::~ZmqContext() {
  while (zmq_ctx_term(context_) != 0 && zmq_errno() == EINTR) {
  }
}

ZmqSocket::ZmqSocket(const ZmqContext& context, int type)
    : socket_(zmq_socket(context.get(), type)) {
  PCHECK(socket_ != nullptr) << "cannot make a ZeroMQ socket";
}

ZmqSocket::~ZmqSocket() { zmq_close(socket_); }

void ZmqSocket::Set(int option, int value) {
  CHECK_EQ(zmq_setsockopt(socket_, option, &value, sizeof(value)), 0)
      << "option " << option << ": " << zmq_strerror(zmq_errno());
}

void ZmqSocket::Set(int option, int64_t value) {
  CHECK_EQ(zmq_setsockopt(socket_, option, &value, sizeof(value)), 0)
      << "option " << option << ": " << zmq_strerror(zmq_errno());
}

void ZmqSocket::Set(int option, const std::string& value) {
  CHECK_EQ(zmq_setsockopt(socket_, option, value.data(), value.size()), 0)
      << "option " << option << ": " << zmq_strerror(zmq_errno());
}

int ZmqSocket::Bind(const std::string& endpoint) {
  return zmq_bind(socket_, endpoint.c_str()) == 0 ? 0 : zmq_errno();
}

int ZmqSocket::Connect(const std::string& endpoint) {
  return zmq_connect(socket_, endpoint.c_str()) == 0 ? 0 : zmq_errno();
}

int ZmqSocket::Disconnect(const std::string& endpoint) {
  return zmq_disconnect(socket_, endpoint.c_str()) == 0 ? 0 : zmq_errno();
}

std::string ZmqSocket::LastEndpoint() const {
  std::array<char, 1024> endpoint;
  size_t size = endpoint.size();
  CHECK_EQ(zmq_getsockopt(socket_, ZMQ_LAST_ENDPOINT, endpoint.data(), &size), 0);
  return endpoint.data();
}

int ZmqSocket::Send(absl::string_view bytes, bool more) {
  const int flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0);
  while (zmq_send(socket_, bytes.data(), bytes.size(), flags) < 0) {
    if (zmq_errno() != EINTR) return zmq_errno();
  }
  return 0;
}

bool ZmqSocket::Receive(ZmqFrame& frame) {
  while (zmq_msg_recv(frame.get(), socket_, ZMQ_DONTWAIT) < 0) {
    if (zmq_errno() == EINTR) continue;
    CHECK_EQ(zmq_errno(), EAGAIN) << zmq_strerror(zmq_errno());
    return false;
  }
  return true;
}

std::vector<std::string> ZmqSocket::ReceiveMessage(size_t frames_max) {
  std::vector<std::string> frames;
  ZmqFrame frame;
  while (Receive(frame)) {
    if (frames.size() < frames_max) frames.emplace_back(frame.bytes());
    if (!frame.more()) break;
  }
  return frames;
}

ZmqMonitor::ZmqMonitor(const ZmqContext& context, ZmqSocket& socket)
    : socket_(socket), reader_(context, ZMQ_PAIR) {
  CHECK_EQ(zmq_socket_monitor(socket.get(), kMonitorEndpoint, kMonitoredEvents), 0)
      << zmq_strerror(zmq_errno());
  reader_.Set(ZMQ_LINGER, 0);
  // libzmq's I/O thread would stop at a full queue of events, and Close would wait for it.
  reader_.Set(ZMQ_RCVHWM, 0);
  CHECK_EQ(reader_.Connect(kMonitorEndpoint), 0);
}

ZmqMonitor::~ZmqMonitor() { zmq_socket_monitor(socket_.get(), nullptr, 0); }

std::optional<ZmqConnectionEvent> ZmqMonitor::Next() {
  const std::vector<std::string> frames = reader_.ReceiveMessage(2);
  if (frames.empty()) return std::nullopt;
  // zmq_socket_monitor(3): 16 bits of event, 32 bits of value; the second frame is the endpoint.
  ZmqConnectionEvent event;
  CHECK_GE(frames[0].size(), sizeof(event.event) + sizeof(event.value));
  std::memcpy(&event.event, frames[0].data(), sizeof(event.event));
  std::memcpy(&event.value, frames[0].data() + sizeof(event.event), sizeof(event.value));
  return event;
}

Waker::Waker() : descriptor_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  PCHECK(descriptor_ >= 0) << "cannot make an event descriptor";
}

Waker::~Waker() { close(descriptor_); }

void Waker::Wake() {
  const uint64_t one = 1;
  // A full counter is as awake as can be.
  while (write(descriptor_, &one, sizeof(one)) < 0 && errno == EINTR) {
  }
}

void Waker::Clear() {
  uint64_t count;
  while (read(descriptor_, &count, sizeof(count)) < 0 && errno == EINTR) {
  }
}

void WaitForInput(const std::vector<void*>& sockets, Waker& waker, absl::Duration timeout) {
  std::vector<zmq_pollitem_t> items;
  for (void* socket : sockets) items.push_back({socket, 0, ZMQ_POLLIN, 0});
  items.push_back({nullptr, waker.descriptor(), ZMQ_POLLIN, 0});
  const auto wait = absl::ToInt64Milliseconds(absl::Ceil(timeout, absl::Milliseconds(1)));
  const int ready = zmq_poll(items.data(), static_cast<int>(items.size()), std::max<long>(wait, 0));
  if (ready < 0) CHECK_EQ(zmq_errno(), EINTR) << zmq_strerror(zmq_errno());
  if (ready > 0 && (items.back().revents & ZMQ_POLLIN) != 0) waker.Clear();
}

void Tune(ZmqSocket& socket, const ZmqTuning& tuning) {
  socket.Set(ZMQ_MAXMSGSIZE, tuning.frame_bytes_max + kCurveOverheadBytes);
  socket.Set(ZMQ_SNDHWM, tuning.queue_messages_max);
  socket.Set(ZMQ_RCVHWM, tuning.queue_messages_max);
  socket.Set(ZMQ_LINGER, Milliseconds(kLinger));
  socket.Set(ZMQ_IMMEDIATE, 1);
  socket.Set(ZMQ_BACKLOG, kBacklog);
  socket.Set(ZMQ_HANDSHAKE_IVL, Milliseconds(kHandshakeMax));
  socket.Set(ZMQ_TCP_MAXRT, Milliseconds(kAcknowledgeMax));
  socket.Set(ZMQ_RECONNECT_IVL, Milliseconds(kReconnectMin));
  socket.Set(ZMQ_RECONNECT_IVL_MAX, Milliseconds(kReconnectMax));
  socket.Set(ZMQ_TCP_KEEPALIVE, 1);
  socket.Set(ZMQ_TCP_KEEPALIVE_IDLE, 10);
  socket.Set(ZMQ_TCP_KEEPALIVE_INTVL, 5);
  socket.Set(ZMQ_TCP_KEEPALIVE_CNT, 3);
}

}  // namespace conclave
