#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "comm/channel/zmq_channel.h"
#include "comm/channel/zmq_socket.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Events returned by one Poll.
constexpr size_t kEventsMax = 256;

// libzmq gives up for good on a server that refuses it; we try again, since keys can be allowed
// later. After other failures it goes on by itself, and silence means that it does not.
constexpr absl::Duration kRetryRefused = absl::Milliseconds(500);
constexpr absl::Duration kRetrySilent = absl::Seconds(2);

class ZmqClientChannelImpl final : public ZmqClientChannel {
 public:
  explicit ZmqClientChannelImpl(ZmqClientOptions options)
      : options_(std::move(options)), dealer_(context_, ZMQ_DEALER), monitor_(context_, dealer_) {
    Tune(dealer_, {.frame_bytes_max = kChannelFrameBytesMax});
    dealer_.Set(ZMQ_ROUTING_ID, options_.name);
    dealer_.Set(ZMQ_CURVE_SERVERKEY, options_.server_key);
    dealer_.Set(ZMQ_CURVE_PUBLICKEY, options_.keys.public_key);
    dealer_.Set(ZMQ_CURVE_SECRETKEY, options_.keys.secret_key);
  }

  absl::Status StartConnecting() {
    last_activity_ = absl::Now();
    const int error = dealer_.Connect(options_.endpoint);
    if (error == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("cannot connect to '", options_.endpoint, "': ",
                                                   zmq_strerror(error), "; write tcp://HOST:PORT"));
  }

  absl::Status Send(const std::string& peer, absl::string_view frame) override {
    if (peer != options_.server_peer) {
      return absl::UnavailableError(
          absl::StrCat(peer, " is not connected; only ", options_.server_peer, " is"));
    }
    if (frame.size() > kChannelFrameBytesMax) {
      return absl::InvalidArgumentError(absl::StrCat("a frame of ", frame.size(), " bytes to ",
                                                     peer, "; at most ", kChannelFrameBytesMax));
    }
    if (!connected_) return trouble_;
    const int error = dealer_.Send(frame, /*more=*/false);
    if (error == 0) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("the queue to ", peer, " is full"));
  }

  std::vector<ChannelEvent> Poll(absl::Duration timeout) override {
    std::vector<ChannelEvent> events = Gather();
    if (!events.empty()) return events;
    // While it is not connected, someone must look after the retries.
    if (!connected_) timeout = std::min(timeout, kRetryRefused);
    WaitForInput({monitor_.get(), dealer_.get()}, waker_, timeout);
    return Gather();
  }

  void Wake() override { waker_.Wake(); }
  std::string endpoint() const override { return ""; }
  absl::Status connection() const override { return connected_ ? absl::OkStatus() : trouble_; }

  absl::Status AwaitConnected(absl::Duration timeout) override {
    const absl::Time end = absl::Now() + timeout;
    for (;;) {
      ReadMonitor();
      if (connected_) return absl::OkStatus();
      const absl::Duration left = end - absl::Now();
      if (rejected_ || left <= absl::ZeroDuration()) return trouble_;
      RetryIfGivenUp();
      WaitForInput({monitor_.get()}, waker_, std::min(left, kRetryRefused));
    }
  }

 private:
  std::vector<ChannelEvent> Gather() {
    ReadMonitor();
    RetryIfGivenUp();
    std::vector<ChannelEvent> events;
    while (events.size() < kEventsMax) {
      std::vector<std::string> frames = dealer_.ReceiveMessage(2);
      if (frames.empty()) {
        // Its last frames first, then that it is gone.
        if (std::exchange(lost_, false)) {
          events.push_back({ChannelEvent::Kind::kPeerLost, options_.server_peer, ""});
        }
        break;
      }
      if (frames.size() != 1) continue;  // not of our making
      events.push_back({ChannelEvent::Kind::kFrame, options_.server_peer, std::move(frames[0])});
    }
    return events;
  }

  void ReadMonitor() {
    while (const std::optional<ZmqConnectionEvent> event = monitor_.Next()) {
      last_activity_ = absl::Now();
      switch (event->event) {
        case ZMQ_EVENT_HANDSHAKE_SUCCEEDED:
          connected_ = true;
          rejected_ = refused_ = false;
          failures_ = 0;
          break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_AUTH:
          refused_ = true;
          Reject(absl::StrCat("it refused our key; add ", options_.keys.public_key,
                              " to the keys that it allows"));
          break;
        case ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL:
        case ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL:
          // Once may be a server that just ends.
          if (++failures_ < 2) break;
          Reject(absl::StrCat("its key is not ", options_.server_key,
                              "; give the key in the coordinator's .pub file"));
          break;
        case ZMQ_EVENT_DISCONNECTED:
          if (!connected_) break;
          connected_ = false;
          lost_ = true;
          trouble_ = absl::UnavailableError(
              absl::StrCat("the connection to ", options_.endpoint, " is lost"));
          break;
        default:
          break;
      }
    }
  }

  void Reject(absl::string_view problem) {
    rejected_ = true;
    trouble_ = absl::UnavailableError(
        absl::StrCat("cannot connect to ", options_.endpoint, ": ", problem));
  }

  void RetryIfGivenUp() {
    const absl::Duration silence = refused_ ? kRetryRefused : kRetrySilent;
    if (connected_ || absl::Now() - last_activity_ < silence) return;
    dealer_.Disconnect(options_.endpoint);  // an error says that libzmq has dropped it already
    CHECK(StartConnecting().ok()) << options_.endpoint << " was accepted before";
  }

  const ZmqClientOptions options_;
  ZmqContext context_;
  Waker waker_;
  ZmqSocket dealer_;
  ZmqMonitor monitor_;
  bool connected_ = false;
  bool rejected_ = false;  // the last handshake failed
  bool refused_ = false;   // because of our key
  int failures_ = 0;       // handshakes that ended without a reason, one after another
  bool lost_ = false;      // to be told once its frames are read
  absl::Status trouble_ = absl::UnavailableError(absl::StrCat(
      "nothing answers at ", options_.endpoint, "; is the coordinator running there?"));
  absl::Time last_activity_;  // when libzmq last reported anything
};

}  // namespace

absl::StatusOr<std::unique_ptr<ZmqClientChannel>> ZmqClientChannel::Connect(
    ZmqClientOptions options) {
  if (!IsCurveKey(options.server_key)) {
    return absl::InvalidArgumentError(
        absl::StrCat("coordinator key '", options.server_key,
                     "' is not 40 characters of Z85; copy it from the coordinator's .pub file"));
  }
  if (!IsCurveKey(options.keys.public_key) || !IsCurveKey(options.keys.secret_key)) {
    return absl::InvalidArgumentError("the client's keys are not 40 characters of Z85");
  }
  if (options.name.empty() || options.name.size() > kPeerNameBytesMax || options.name[0] == '\0') {
    return absl::InvalidArgumentError(absl::StrCat("worker name '", options.name,
                                                   "' does not have 1 to ", kPeerNameBytesMax,
                                                   " bytes; choose another"));
  }
  auto channel = std::make_unique<ZmqClientChannelImpl>(std::move(options));
  RETURN_IF_ERROR(channel->StartConnecting());
  return absl::StatusOr<std::unique_ptr<ZmqClientChannel>>(std::move(channel));
}

}  // namespace conclave
