#include "comm/channel/zmq_channel.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "comm/channel/zmq_socket.h"
#include "comm/codec/codec.h"
#include "comm/codec/random_envelope.h"
#include "glog/logging.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

static_assert(kChannelFrameBytesMax == kFrameBytesMax);
static_assert(kPeerNameBytesMax == kNameBytesMax);

// Every wait of these tests ends by then.
constexpr absl::Duration kPatience = absl::Seconds(10);
constexpr absl::Duration kSlice = absl::Milliseconds(5);

constexpr char kServer[] = "coordinator";

// What was logged while it lives.
class LogCapture : public google::LogSink {
 public:
  LogCapture() { google::AddLogSink(this); }
  ~LogCapture() override { google::RemoveLogSink(this); }
  void send(google::LogSeverity, const char*, const char*, int, const struct ::tm*,
            const char* message, size_t size) override {
    absl::MutexLock lock(&mutex_);
    absl::StrAppend(&text_, absl::string_view(message, size), "\n");
  }
  std::string text() {
    absl::MutexLock lock(&mutex_);
    return text_;
  }

 private:
  absl::Mutex mutex_;
  std::string text_ ABSL_GUARDED_BY(mutex_);
};

int PortOf(const std::string& endpoint) {
  int port = 0;
  EXPECT_TRUE(absl::SimpleAtoi(endpoint.substr(endpoint.rfind(':') + 1), &port)) << endpoint;
  return port;
}

class ZmqChannelTest : public ::testing::Test {
 protected:
  void Listen(const std::string& endpoint = "tcp://127.0.0.1:*") {
    ZmqServerOptions options;
    options.endpoint = endpoint;
    options.keys = server_keys_;
    options.allowed_keys = {client_keys_.public_key};
    auto server = ListenZmq(options);
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }

  ZmqClientOptions ClientOptions(const std::string& name) const {
    return {server_->endpoint(), server_keys_.public_key, client_keys_, name};
  }

  static std::unique_ptr<ZmqClientChannel> Connect(const ZmqClientOptions& options) {
    auto client = ZmqClientChannel::Connect(options);
    EXPECT_TRUE(client.ok()) << client.status();
    return *std::move(client);
  }

  // Polls the server, keeping its events, until `done`, which must not poll it too.
  bool ServeUntil(const std::function<bool()>& done, absl::Duration patience = kPatience) {
    const absl::Time end = absl::Now() + patience;
    while (!done()) {
      if (absl::Now() > end) return false;
      Serve();
    }
    return true;
  }
  void Serve() {
    for (ChannelEvent& event : server_->Poll(kSlice)) Keep(std::move(event));
  }
  void Keep(ChannelEvent event) {
    const bool lost = event.kind == ChannelEvent::Kind::kPeerLost;
    (lost ? lost_ : frames_).push_back(event.peer + (lost ? "" : ": " + event.frame));
    order_.push_back(lost ? "lost " + event.peer : event.frame);
  }
  // A client of `name` that is connected.
  std::unique_ptr<ZmqClientChannel> Join(const std::string& name) {
    auto client = Connect(ClientOptions(name));
    EXPECT_TRUE(ServeUntil([&] {
      client->Poll(absl::ZeroDuration());
      return client->connection().ok();
    })) << client->connection();
    return client;
  }
  // The client's status once it is neither connected nor merely waiting.
  absl::Status Failure(ZmqClientChannel& client, absl::string_view telling) {
    EXPECT_TRUE(ServeUntil(
        [&] {
          client.Poll(absl::ZeroDuration());
          return absl::StrContains(client.connection().message(), telling);
        },
        absl::Seconds(3)))
        << client.connection();
    return client.connection();
  }

  const CurveKeys server_keys_ = MakeCurveKeys();
  const CurveKeys client_keys_ = MakeCurveKeys();
  std::unique_ptr<Channel> server_;
  std::vector<std::string> frames_;  // "peer: frame"
  std::vector<std::string> lost_;
  std::vector<std::string> order_;
};

TEST_F(ZmqChannelTest, AThousandFramesEachWay) {
  Listen();
  EXPECT_GT(PortOf(server_->endpoint()), 0);
  auto client = Join("worker-1");
  EXPECT_EQ(client->endpoint(), "");
  constexpr int kFrames = 1000;
  std::vector<std::string> answers;
  for (int i = 0; i < kFrames; ++i) ASSERT_TRUE(client->Send(kServer, absl::StrCat(i)).ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == kFrames; }));
  for (int i = 0; i < kFrames; ++i) {
    ASSERT_EQ(frames_[i], absl::StrCat("worker-1: ", i));
    ASSERT_TRUE(server_->Send("worker-1", absl::StrCat("answer ", i)).ok());
  }
  ASSERT_TRUE(ServeUntil([&] {
    for (ChannelEvent& event : client->Poll(kSlice)) {
      EXPECT_EQ(event.peer, kServer);
      answers.push_back(event.frame);
    }
    return answers.size() == kFrames;
  }));
  for (int i = 0; i < kFrames; ++i) ASSERT_EQ(answers[i], absl::StrCat("answer ", i));
}

TEST_F(ZmqChannelTest, PeersAreToldApart) {
  Listen();
  auto one = Join("one");
  auto two = Join("two");
  EXPECT_TRUE(one->Send(kServer, "from one").ok());
  EXPECT_TRUE(two->Send(kServer, "from two").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 2; }));
  EXPECT_TRUE(server_->Send("two", "to two").ok());
  std::vector<ChannelEvent> events;
  ASSERT_TRUE(ServeUntil([&] {
    events = two->Poll(kSlice);
    return !events.empty();
  }));
  EXPECT_EQ(events[0].frame, "to two");
  EXPECT_TRUE(one->Poll(absl::ZeroDuration()).empty());
  EXPECT_EQ(server_->Send("three", "x").code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(one->Send("two", "x").code(), absl::StatusCode::kUnavailable);
}

TEST_F(ZmqChannelTest, TheLargestFramePassesALargerOneDoesNot) {
  Listen();
  auto client = Join("worker-1");
  const std::string largest(kChannelFrameBytesMax, 'x');
  EXPECT_TRUE(client->Send(kServer, largest).ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 1; }));
  EXPECT_EQ(frames_[0].size(), largest.size() + std::string("worker-1: ").size());
  const absl::Status status = client->Send(kServer, largest + "y");
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(server_->Send("worker-1", largest + "y").code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(ZmqChannelTest, WakeEndsAPollOfAnotherThread) {
  Listen();
  std::thread waker([&] { server_->Wake(); });
  const absl::Time start = absl::Now();
  server_->Poll(kPatience);
  EXPECT_LT(absl::Now() - start, kPatience / 2);
  waker.join();
  server_->Wake();
  server_->Poll(kPatience);  // one that comes next returns at once, too
  EXPECT_LT(absl::Now() - start, kPatience / 2);
}

TEST_F(ZmqChannelTest, AnIdleClusterSleeps) {
  Listen();
  auto client = Join("worker-1");
  const auto cpu = [] {
    rusage usage = {};
    getrusage(RUSAGE_SELF, &usage);
    return absl::DurationFromTimeval(usage.ru_utime) + absl::DurationFromTimeval(usage.ru_stime);
  };
  const absl::Duration before = cpu();
  const absl::Time end = absl::Now() + absl::Seconds(1);
  std::thread other([&] {
    while (absl::Now() < end) client->Poll(end - absl::Now());
  });
  int polls = 0;
  for (; absl::Now() < end; ++polls) server_->Poll(end - absl::Now());
  other.join();
  EXPECT_LT(polls, 20);
  EXPECT_LT(cpu() - before, absl::Milliseconds(100)) << "of one second";
}

TEST_F(ZmqChannelTest, AnUnknownKeyIsRefusedOnBothSidesClearly) {
  LogCapture log;
  Listen();
  ZmqClientOptions options = ClientOptions("stranger");
  options.keys = MakeCurveKeys();
  auto client = Connect(options);
  const absl::Status status = Failure(*client, "refused our key");
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("add " + options.keys.public_key));
  EXPECT_THAT(std::string(client->Send(kServer, "x").message()), HasSubstr("refused our key"));
  EXPECT_THAT(log.text(), HasSubstr("a connection from 127.0.0.1 is refused"));
  EXPECT_THAT(log.text(), HasSubstr(options.keys.public_key));
  EXPECT_TRUE(frames_.empty());
}

TEST_F(ZmqChannelTest, AKeyCanBeAllowedLater) {
  std::string folder = ::testing::TempDir() + "/allowed.XXXXXX";
  ASSERT_NE(mkdtemp(folder.data()), nullptr);
  ZmqServerOptions server_options;
  server_options.keys = server_keys_;
  server_options.allowed_folder = folder;
  server_ = *ListenZmq(server_options);
  auto client = Connect(ClientOptions("late"));
  EXPECT_FALSE(Failure(*client, "refused our key").ok());
  std::ofstream(folder + "/late.pub") << "public " << client_keys_.public_key << "\n";
  EXPECT_TRUE(ServeUntil([&] {
    client->Poll(absl::ZeroDuration());
    return client->connection().ok();
  }));
  std::filesystem::remove_all(folder);
}

TEST_F(ZmqChannelTest, AWrongServerKeyIsNoticed) {
  LogCapture log;
  Listen();
  ZmqClientOptions options = ClientOptions("worker-1");
  options.server_key = MakeCurveKeys().public_key;
  auto client = Connect(options);
  const absl::Time start = absl::Now();
  const absl::Status status = Failure(*client, "its key is not " + options.server_key);
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_LT(absl::Now() - start, absl::Seconds(2));
  EXPECT_THAT(log.text(), HasSubstr("failed in its handshake"));
}

TEST_F(ZmqChannelTest, AwaitConnectedTellsWhatIsWrong) {
  Listen();
  std::atomic<bool> done = false;
  std::thread serving([&] {
    while (!done) server_->Poll(kSlice);
  });
  auto good = Connect(ClientOptions("good"));
  EXPECT_TRUE(good->AwaitConnected(kPatience).ok());

  ZmqClientOptions options = ClientOptions("refused");
  options.keys = MakeCurveKeys();
  const absl::Time start = absl::Now();
  EXPECT_THAT(std::string(Connect(options)->AwaitConnected(kPatience).message()),
              HasSubstr("refused our key"));
  options = ClientOptions("lost");
  options.server_key = MakeCurveKeys().public_key;
  EXPECT_THAT(std::string(Connect(options)->AwaitConnected(kPatience).message()),
              HasSubstr("its key is not"));
  EXPECT_LT(absl::Now() - start, absl::Seconds(4));
  done = true;
  serving.join();

  const std::string endpoint = server_->endpoint();
  server_.reset();
  options = {endpoint, server_keys_.public_key, client_keys_, "alone"};
  const absl::Status status = Connect(options)->AwaitConnected(absl::Milliseconds(200));
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("nothing answers at " + endpoint));
}

TEST_F(ZmqChannelTest, APlaintextPeerGetsNowhere) {
  LogCapture log;
  Listen();
  ZmqContext context;
  ZmqSocket plain(context, ZMQ_DEALER);
  plain.Set(ZMQ_LINGER, 0);
  plain.Set(ZMQ_ROUTING_ID, std::string("worker-1"));
  ASSERT_EQ(plain.Connect(server_->endpoint()), 0);
  ASSERT_EQ(plain.Send("hello", false), 0);
  EXPECT_TRUE(ServeUntil([&] { return absl::StrContains(log.text(), "failed in its handshake"); }));
  EXPECT_TRUE(frames_.empty());
}

// A DEALER with good keys and bad manners.
std::unique_ptr<ZmqSocket> RawClient(const ZmqContext& context, const ZmqClientOptions& options) {
  auto socket = std::make_unique<ZmqSocket>(context, ZMQ_DEALER);
  socket->Set(ZMQ_LINGER, 0);
  if (!options.name.empty()) socket->Set(ZMQ_ROUTING_ID, options.name);
  socket->Set(ZMQ_CURVE_SERVERKEY, options.server_key);
  socket->Set(ZMQ_CURVE_PUBLICKEY, options.keys.public_key);
  socket->Set(ZMQ_CURVE_SECRETKEY, options.keys.secret_key);
  EXPECT_EQ(socket->Connect(options.endpoint), 0);
  return socket;
}

TEST_F(ZmqChannelTest, BadMannersHurtNobodyElse) {
  LogCapture log;
  Listen();
  auto good = Join("good");
  ZmqContext context;
  auto rude = RawClient(context, ClientOptions("rude"));
  auto nameless = RawClient(context, ClientOptions(""));
  ASSERT_EQ(nameless->Send("no name", false), 0);
  ASSERT_EQ(rude->Send("two", true), 0);
  ASSERT_EQ(rude->Send("parts", false), 0);
  ASSERT_EQ(rude->Send("", false), 0);
  ASSERT_EQ(rude->Send(std::string("\0garbage\xff", 9), false), 0);
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 2; }));
  EXPECT_THAT(frames_, ElementsAre("rude: ", "rude: " + std::string("\0garbage\xff", 9)));
  for (const std::string& frame : frames_) {
    EXPECT_FALSE(Decode(absl::string_view(frame).substr(6)).ok());
  }
  EXPECT_TRUE(ServeUntil([&] { return absl::StrContains(log.text(), "without a sender's name"); }));

  // An oversized frame cuts the connection off before it is read.
  ASSERT_EQ(rude->Send(std::string(kChannelFrameBytesMax + 65536, 'x'), false), 0);
  ASSERT_TRUE(ServeUntil([&] { return !lost_.empty(); }));
  EXPECT_THAT(lost_, ElementsAre("rude"));
  EXPECT_EQ(frames_.size(), 2u);
  EXPECT_TRUE(good->Send(kServer, "still here").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 3; }));
}

TEST_F(ZmqChannelTest, BytesThatAreNotZmtpHurtNobody) {
  Listen();
  auto good = Join("good");
  Rng rng(1);
  for (int i = 0; i < 20; ++i) {
    const int fd = socket(AF_INET, SOCK_STREAM, 0);
    sockaddr_in address = {};
    address.sin_family = AF_INET;
    address.sin_port = htons(PortOf(server_->endpoint()));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    ASSERT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
    std::string bytes(rng.Below(4096), '\0');
    for (char& c : bytes) c = static_cast<char>(rng.Below(256));
    if (i % 2 == 0) bytes.replace(0, 11, std::string("\xff\0\0\0\0\0\0\0\x01\x7f\x03", 11));
    EXPECT_GE(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL), 0);
    Serve();
    close(fd);
  }
  EXPECT_TRUE(good->Send(kServer, "still here").ok());
  ASSERT_TRUE(ServeUntil([&] { return !frames_.empty(); }));
  EXPECT_THAT(frames_, ElementsAre("good: still here"));
}

TEST_F(ZmqChannelTest, LastFramesComeBeforeTheLoss) {
  Listen();
  auto client = Join("worker-1");
  EXPECT_TRUE(client->Send(kServer, "hello").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 1; }));
  EXPECT_TRUE(client->Send(kServer, "goodbye").ok());
  client.reset();  // lingers until it is sent
  ASSERT_TRUE(ServeUntil([&] { return !lost_.empty(); }));
  EXPECT_THAT(order_, ElementsAre("hello", "goodbye", "lost worker-1"));
}

TEST_F(ZmqChannelTest, APeerThatComesBackKeepsItsName) {
  Listen();
  for (int life = 1; life <= 3; ++life) {
    auto client = Join("worker-1");
    ASSERT_TRUE(client->Send(kServer, absl::StrCat("life ", life)).ok());
    ASSERT_TRUE(ServeUntil([&] { return frames_.size() == static_cast<size_t>(life); }));
    ASSERT_TRUE(server_->Send("worker-1", "welcome").ok());
    std::vector<ChannelEvent> events;
    ASSERT_TRUE(ServeUntil([&] {
      events = client->Poll(kSlice);
      return !events.empty();
    }));
    EXPECT_EQ(events[0].frame, "welcome");
  }
  ASSERT_TRUE(ServeUntil([&] { return lost_.size() == 3; }));
  EXPECT_EQ(order_[1], "lost worker-1");
  EXPECT_EQ(order_[2], "life 2");
}

TEST_F(ZmqChannelTest, ANameIsHandedOverWithoutALoss) {
  Listen();
  auto first = Join("worker-1");
  EXPECT_TRUE(first->Send(kServer, "first").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 1; }));
  ZmqContext context;
  auto second = RawClient(context, ClientOptions("worker-1"));
  ASSERT_EQ(second->Send("second", false), 0);
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 2; }));
  EXPECT_EQ(frames_[1], "worker-1: second");
}

TEST_F(ZmqChannelTest, AnotherKeyDoesNotSpeakForAName) {
  LogCapture log;
  const CurveKeys other_keys = MakeCurveKeys();
  ZmqServerOptions server_options;
  server_options.keys = server_keys_;
  server_options.allowed_keys = {client_keys_.public_key, other_keys.public_key};
  server_ = *ListenZmq(server_options);
  auto owner = Join("worker-1");
  EXPECT_TRUE(owner->Send(kServer, "mine").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 1; }));
  ZmqClientOptions options = ClientOptions("worker-1");
  options.keys = other_keys;
  ZmqContext context;
  auto thief = RawClient(context, options);
  ASSERT_EQ(thief->Send("stolen", false), 0);
  ASSERT_TRUE(ServeUntil(
      [&] { return !lost_.empty() || absl::StrContains(log.text(), "claims the name worker-1"); }));
  // Either the owner's connection was seen to end first, or the message was dropped.
  if (lost_.empty()) EXPECT_THAT(frames_, ElementsAre("worker-1: mine"));
}

TEST_F(ZmqChannelTest, ARestartedServerIsFoundAgain) {
  Listen();
  const std::string endpoint = server_->endpoint();
  auto client = Join("worker-1");
  EXPECT_TRUE(client->Send(kServer, "before").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 1; }));
  server_.reset();
  std::vector<ChannelEvent> events;
  const absl::Time end = absl::Now() + kPatience;
  while (events.empty() && absl::Now() < end) events = client->Poll(kSlice);
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].kind, ChannelEvent::Kind::kPeerLost);
  EXPECT_EQ(events[0].peer, kServer);
  EXPECT_EQ(client->Send(kServer, "into the void").code(), absl::StatusCode::kUnavailable);

  Listen(endpoint);
  ASSERT_TRUE(ServeUntil([&] {
    client->Poll(absl::ZeroDuration());
    return client->connection().ok();
  }));
  EXPECT_TRUE(client->Send(kServer, "after").ok());
  ASSERT_TRUE(ServeUntil([&] { return frames_.size() == 2; }));
  EXPECT_EQ(frames_[1], "worker-1: after");
}

TEST_F(ZmqChannelTest, AFullQueueIsAnErrorNotAWait) {
  Listen();
  auto client = Join("worker-1");
  const std::string frame(64 << 10, 'x');
  absl::Status status;
  for (int i = 0; i < 100000 && status.ok(); ++i) status = client->Send(kServer, frame);
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
}

TEST_F(ZmqChannelTest, AnOccupiedPortIsNamed) {
  Listen();
  ZmqServerOptions options;
  options.endpoint = server_->endpoint();
  options.keys = server_keys_;
  const absl::Status status = ListenZmq(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr(server_->endpoint()));
  EXPECT_THAT(std::string(status.message()), HasSubstr("choose another port"));
}

TEST_F(ZmqChannelTest, BadOptionsAreNamed) {
  Listen();
  ZmqServerOptions server;
  EXPECT_EQ(ListenZmq(server).status().code(), absl::StatusCode::kInvalidArgument);
  server.keys = server_keys_;
  server.endpoint = "nonsense";
  EXPECT_EQ(ListenZmq(server).status().code(), absl::StatusCode::kInvalidArgument);
  server.endpoint = "tcp://192.0.2.1:7070";
  EXPECT_EQ(ListenZmq(server).status().code(), absl::StatusCode::kInvalidArgument);
  server.endpoint = "tcp://127.0.0.1:*";
  server.allowed_keys = {"short"};
  EXPECT_THAT(std::string(ListenZmq(server).status().message()), HasSubstr("'short'"));

  const auto refuse = [&](std::function<void(ZmqClientOptions&)> spoil) {
    ZmqClientOptions options = ClientOptions("worker-1");
    spoil(options);
    EXPECT_EQ(ZmqClientChannel::Connect(options).status().code(),
              absl::StatusCode::kInvalidArgument);
  };
  refuse([](ZmqClientOptions& o) { o.endpoint = "nonsense"; });
  refuse([](ZmqClientOptions& o) { o.server_key = "short"; });
  refuse([](ZmqClientOptions& o) { o.keys.secret_key.clear(); });
  refuse([](ZmqClientOptions& o) { o.name.clear(); });
  refuse([](ZmqClientOptions& o) { o.name = std::string(256, 'n'); });
}

TEST_F(ZmqChannelTest, EnvelopesPass) {
  Listen();
  auto client = Join("worker-1");
  Rng rng(5);
  std::vector<Envelope> sent;
  for (int i = 0; i < 50; ++i) {
    sent.push_back(RandomEnvelope(rng));
    ASSERT_TRUE(client->Send(kServer, Encode(sent.back())).ok());
  }
  ASSERT_TRUE(ServeUntil([&] { return order_.size() == sent.size(); }));
  std::vector<Envelope> received;
  for (const std::string& frame : order_) {
    const auto envelope = Decode(frame);
    ASSERT_TRUE(envelope.ok()) << envelope.status();
    received.push_back(*envelope);
  }
  EXPECT_EQ(received, sent);
}

}  // namespace
}  // namespace conclave
