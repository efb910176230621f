#include <cerrno>
#include <cstdint>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "comm/channel/allow_list.h"
#include "comm/channel/complaints.h"
#include "comm/channel/zmq_channel.h"
#include "comm/channel/zmq_socket.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Events returned by one Poll.
constexpr size_t kEventsMax = 256;

// Where libzmq asks whether a key may connect (RFC 27, ZAP), and the frames of its question.
constexpr char kZapEndpoint[] = "inproc://zeromq.zap.01";
constexpr char kZapDomain[] = "conclave";
constexpr size_t kZapFrames = 7;  // version, id, domain, address, identity, mechanism, key

// What the authenticator tells of a connection travels with each of its frames.
constexpr char kUserId[] = "User-Id";

// One authenticated connection. Numbers grow, so that a reconnected peer is told from its past.
struct Connection {
  uint64_t number = 0;
  std::string key;
};

class ZmqServerChannel final : public Channel {
 public:
  explicit ZmqServerChannel(ZmqServerOptions options)
      : allow_list_(std::move(options.allowed_keys), std::move(options.allowed_folder)),
        zap_(context_, ZMQ_REP),
        router_(context_, ZMQ_ROUTER),
        monitor_(context_, router_) {
    zap_.Set(ZMQ_LINGER, 0);
    CHECK_EQ(zap_.Bind(kZapEndpoint), 0);
    Tune(router_, {.frame_bytes_max = kChannelFrameBytesMax});
    router_.Set(ZMQ_ROUTER_MANDATORY, 1);
    router_.Set(ZMQ_ROUTER_HANDOVER, 1);
    router_.Set(ZMQ_CURVE_SERVER, 1);
    router_.Set(ZMQ_CURVE_SECRETKEY, options.keys.secret_key);
    router_.Set(ZMQ_ZAP_DOMAIN, std::string(kZapDomain));
  }

  absl::Status Bind(const std::string& endpoint) {
    const int error = router_.Bind(endpoint);
    if (error == 0) {
      endpoint_ = router_.LastEndpoint();
      return absl::OkStatus();
    }
    if (error == EADDRINUSE) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen at ", endpoint,
          ": the port is occupied; stop the process that holds it, or choose another port"));
    }
    if (error == EACCES) {
      return absl::UnavailableError(
          absl::StrCat("cannot listen at ", endpoint, ": not permitted; choose a port above 1023"));
    }
    return absl::InvalidArgumentError(
        absl::StrCat("cannot listen at ", endpoint, ": ", zmq_strerror(error),
                     "; write tcp://ADDRESS:PORT with an address of this machine"));
  }

  absl::Status Send(const std::string& peer, absl::string_view frame) override {
    if (frame.size() > kChannelFrameBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("a frame of ", frame.size(), " bytes to ",
                                                     peer, "; at most ", kChannelFrameBytesMax));
    }
    int error = router_.Send(peer, /*more=*/true);
    if (error == 0) error = router_.Send(frame, /*more=*/false);
    if (error == 0) return absl::OkStatus();
    if (error == EAGAIN) {
      return absl::ResourceExhaustedError(absl::StrCat("the queue to ", peer, " is full"));
    }
    return absl::UnavailableError(absl::StrCat(peer, " is not connected"));
  }

  std::vector<ChannelEvent> Poll(absl::Duration timeout) override {
    std::vector<ChannelEvent> events = Gather();
    if (!events.empty()) return events;
    WaitForInput({zap_.get(), monitor_.get(), router_.get()}, waker_, timeout);
    return Gather();
  }

  void Wake() override { waker_.Wake(); }
  std::string endpoint() const override { return endpoint_; }

 private:
  struct LostConnection {
    std::string peer;
    uint64_t number = 0;
  };

  // The order matters: a connection that takes over the descriptor of an ended one asks for
  // admission after that end was reported, and sends only once admitted. So when its first frame
  // is read here, the end of the other has been seen.
  std::vector<ChannelEvent> Gather() {
    AnswerHandshakes();
    ReadMonitor();
    std::vector<ChannelEvent> events;
    const bool drained = ReadFrames(events);
    // Its last frames first, then that it is gone.
    if (drained) {
      for (const LostConnection& lost : std::exchange(lost_, {})) Lose(lost, events);
    }
    return events;
  }

  void AnswerHandshakes() {
    for (;;) {
      const std::vector<std::string> request = zap_.ReceiveMessage(kZapFrames);
      if (request.empty()) return;
      std::string user_id;
      std::string code = "200";
      const absl::Status admitted = Admit(request, user_id);
      if (!admitted.ok()) {
        code = "400";
        refused_.Add(absl::Now(), absl::StrCat("a connection from ",
                                               request.size() > 3 ? request[3] : "somewhere",
                                               " is refused: ", admitted.message()));
      }
      const std::string id = request.size() > 1 ? request[1] : "";
      for (const std::string& part : {std::string("1.0"), id, code, std::string(), user_id}) {
        CHECK_EQ(zap_.Send(part, /*more=*/true), 0);
      }
      CHECK_EQ(zap_.Send("", /*more=*/false), 0);
    }
  }

  absl::Status Admit(const std::vector<std::string>& request, std::string& user_id) {
    if (request.size() != kZapFrames || request[5] != "CURVE" || request[6].size() != 32) {
      return absl::PermissionDeniedError("only CURVE keys are let in");
    }
    char key[41];
    zmq_z85_encode(key, reinterpret_cast<const uint8_t*>(request[6].data()), request[6].size());
    RETURN_IF_ERROR(allow_list_.Check(key));
    user_id = absl::StrCat(++connections_, " ", key);
    return absl::OkStatus();
  }

  void ReadMonitor() {
    while (const std::optional<ZmqConnectionEvent> event = monitor_.Next()) {
      if (event->event == ZMQ_EVENT_DISCONNECTED) {
        const auto it = by_descriptor_.find(static_cast<int>(event->value));
        if (it == by_descriptor_.end()) continue;
        lost_.push_back(std::move(it->second));
        by_descriptor_.erase(it);
      } else if (event->event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL ||
                 event->event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL) {
        failed_.Add(absl::Now(),
                    absl::StrCat("a connection to ", endpoint_, " failed in its handshake (code ",
                                 event->value, "): its peer does not speak CURVE, or has the key ",
                                 "of another server"));
      }
    }
  }

  // True when no more frames wait.
  bool ReadFrames(std::vector<ChannelEvent>& events) {
    ZmqFrame frame;
    while (events.size() < kEventsMax) {
      if (!router_.Receive(frame)) return true;
      const std::string peer(frame.bytes());
      if (!frame.more()) continue;
      CHECK(router_.Receive(frame)) << "a message is received whole";
      const bool single = !frame.more();
      const bool known = single && Recognize(peer, frame, events);
      if (known) {
        events.push_back({ChannelEvent::Kind::kFrame, peer, std::string(frame.bytes())});
      }
      for (bool more = !single; more; more = frame.more()) CHECK(router_.Receive(frame));
    }
    return false;
  }

  // True when the frame came over a connection that may speak for `peer`.
  bool Recognize(const std::string& peer, ZmqFrame& frame, std::vector<ChannelEvent>& events) {
    const std::pair<absl::string_view, absl::string_view> user =
        absl::StrSplit(frame.Property(kUserId), absl::MaxSplits(' ', 1));
    uint64_t number = 0;
    // libzmq itself names a peer that gives no name; such names start with a zero.
    if (peer.empty() || peer[0] == '\0' || peer.size() > kPeerNameBytesMax ||
        !absl::SimpleAtoi(user.first, &number)) {
      strange_.Add(absl::Now(), "a message without a sender's name is dropped");
      return false;
    }
    for (auto lost = lost_.begin(); lost != lost_.end(); ++lost) {
      if (lost->peer != peer || lost->number >= number) continue;
      Lose(*lost, events);  // what follows is of its next life
      lost_.erase(lost);
      break;
    }
    Connection& owner = peers_[peer];
    if (owner.number != 0 && owner.key != user.second) {
      strange_.Add(absl::Now(), absl::StrCat("a message is dropped: key ", user.second,
                                             " claims the name ", peer, ", which key ", owner.key,
                                             " uses; give the worker another name"));
      return false;
    }
    if (number < owner.number) return true;  // still in the queue when it reconnected
    owner = {number, std::string(user.second)};
    by_descriptor_[frame.descriptor()] = {peer, number};
    return true;
  }

  void Lose(const LostConnection& lost, std::vector<ChannelEvent>& events) {
    const auto it = peers_.find(lost.peer);
    if (it == peers_.end() || it->second.number != lost.number) return;  // it has reconnected
    peers_.erase(it);
    events.push_back({ChannelEvent::Kind::kPeerLost, lost.peer, ""});
  }

  const AllowList allow_list_;
  ZmqContext context_;
  Waker waker_;
  ZmqSocket zap_;
  ZmqSocket router_;
  ZmqMonitor monitor_;
  std::string endpoint_;
  uint64_t connections_ = 0;                                // admitted so far
  absl::flat_hash_map<std::string, Connection> peers_;      // by name
  absl::flat_hash_map<int, LostConnection> by_descriptor_;  // what is lost when one closes
  std::vector<LostConnection> lost_;                        // told once their frames are read
  Complaints refused_;
  Complaints failed_;
  Complaints strange_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Channel>> ListenZmq(ZmqServerOptions options) {
  if (!IsCurveKey(options.keys.secret_key)) {
    return absl::InvalidArgumentError("the server's secret key is not 40 characters of Z85");
  }
  for (const std::string& key : options.allowed_keys) {
    if (IsCurveKey(key)) continue;
    return absl::InvalidArgumentError(absl::StrCat(
        "allowed key '", key, "' is not 40 characters of Z85; copy it from a .pub file"));
  }
  const std::string endpoint = options.endpoint;
  auto channel = std::make_unique<ZmqServerChannel>(std::move(options));
  RETURN_IF_ERROR(channel->Bind(endpoint));
  return absl::StatusOr<std::unique_ptr<Channel>>(std::move(channel));
}

}  // namespace conclave
