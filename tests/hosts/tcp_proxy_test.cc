#include "tests/hosts/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;
constexpr absl::Duration kPatience = absl::Seconds(20);

// A socket that is closed with its owner.
class Socket {
 public:
  explicit Socket(int fd) : fd_(fd) {}
  Socket(Socket&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ~Socket() { Close(); }
  int fd() const { return fd_; }
  void Close() {
    if (fd_ >= 0) close(fd_);
    fd_ = -1;
  }
  bool Readable(absl::Duration timeout = kPatience) const {
    pollfd wait = {fd_, POLLIN, 0};
    return poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) > 0;
  }
  void Write(const std::string& text) const {
    ASSERT_EQ(send(fd_, text.data(), text.size(), MSG_NOSIGNAL),
              static_cast<ssize_t>(text.size()));
  }
  // `size` bytes, or fewer before the end; "reset" after a reset.
  std::string Read(size_t size) const {
    std::string text;
    char buffer[4096];
    while (text.size() < size && Readable()) {
      const ssize_t got = recv(fd_, buffer, std::min(sizeof(buffer), size - text.size()), 0);
      if (got < 0) return errno == ECONNRESET ? "reset" : "error";
      if (got == 0) break;
      text.append(buffer, got);
    }
    return text;
  }

 private:
  int fd_;
};

sockaddr_in Loopback(int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  address.sin_port = htons(static_cast<uint16_t>(port));
  return address;
}

class TcpProxyTest : public testing::Test {
 protected:
  void Start(const TcpProxyOptions& options = {}) {
    sockaddr_in own = Loopback(0);
    socklen_t size = sizeof(own);
    ASSERT_EQ(bind(listener_.fd(), reinterpret_cast<sockaddr*>(&own), size), 0);
    ASSERT_EQ(listen(listener_.fd(), 16), 0);
    ASSERT_EQ(getsockname(listener_.fd(), reinterpret_cast<sockaddr*>(&own), &size), 0);
    server_port_ = ntohs(own.sin_port);
    auto proxy = TcpProxy::Start(options);
    ASSERT_TRUE(proxy.ok()) << proxy.status();
    proxy_ = *std::move(proxy);
  }
  int Route(const std::string& from, const std::string& to) {
    const auto port = proxy_->AddRoute({from, to, "127.0.0.1", server_port_});
    EXPECT_TRUE(port.ok()) << port.status();
    return *port;
  }
  // The two ends of a connection through the proxy.
  std::pair<Socket, Socket> Connect(int port) {
    Socket client(socket(AF_INET, SOCK_STREAM, 0));
    const sockaddr_in address = Loopback(port);
    EXPECT_EQ(connect(client.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)),
              0);
    EXPECT_TRUE(listener_.Readable());
    Socket server(accept(listener_.fd(), nullptr, nullptr));
    return {std::move(client), std::move(server)};
  }
  bool AwaitTaken(int64_t bytes) {
    return proxy_->Await([&](const ProxyCounters& c) { return c.bytes_taken >= bytes; }, kPatience);
  }
  int64_t Given() {
    int64_t given = 0;
    proxy_->Await(
        [&](const ProxyCounters& c) {
          given = c.bytes_given;
          return true;
        },
        kPatience);
    return given;
  }

  Socket listener_{socket(AF_INET, SOCK_STREAM, 0)};
  int server_port_ = 0;
  std::unique_ptr<TcpProxy> proxy_;
};

TEST_F(TcpProxyTest, BytesAndEndsPassBothWays) {
  Start();
  auto [client, server] = Connect(Route("a", "b"));
  client.Write("question");
  EXPECT_EQ(server.Read(8), "question");
  shutdown(client.fd(), SHUT_WR);
  EXPECT_EQ(server.Read(1), "");  // the end; the other direction is open
  server.Write("answer");
  EXPECT_EQ(client.Read(6), "answer");
  server.Close();
  EXPECT_EQ(client.Read(1), "");
  EXPECT_TRUE(proxy_->Await([](const ProxyCounters& c) { return c.open == 0; }, kPatience));
}

TEST_F(TcpProxyTest, DelayIsOfVirtualTime) {
  TcpProxyOptions options;
  options.virtual_time = true;
  Start(options);
  LinkRule slow;
  slow.delay = absl::Seconds(60);
  proxy_->SetRule("a", "b", slow);
  auto [client, server] = Connect(Route("a", "b"));
  client.Write("late");
  ASSERT_TRUE(AwaitTaken(4));
  server.Write("at once");
  EXPECT_EQ(client.Read(7), "at once");
  proxy_->Advance(absl::Seconds(59));
  server.Write("more");
  EXPECT_EQ(client.Read(4), "more");  // the proxy has seen the new time
  EXPECT_EQ(Given(), 11);
  proxy_->Advance(absl::Seconds(1));
  EXPECT_EQ(server.Read(4), "late");
}

TEST_F(TcpProxyTest, AStallKeepsTheConnectionAndItsBytes) {
  Start();
  auto [client, server] = Connect(Route("a", "b"));
  auto [other_client, other_server] = Connect(Route("c", "b"));
  client.Write("1");
  EXPECT_EQ(server.Read(1), "1");
  LinkRule stalled;
  stalled.stalled = true;
  proxy_->SetRule("a", "b", stalled);
  client.Write("2");
  server.Write("back");
  EXPECT_EQ(client.Read(4), "back");  // one direction only
  other_client.Write("x");
  EXPECT_EQ(other_server.Read(1), "x");  // one route only
  EXPECT_FALSE(server.Readable(absl::ZeroDuration()));
  proxy_->Heal();
  EXPECT_EQ(server.Read(1), "2");
}

TEST_F(TcpProxyTest, AStallHidesThatAnEndHasGone) {
  Start();
  auto [client, server] = Connect(Route("a", "b"));
  auto [other_client, other_server] = Connect(Route("c", "b"));
  proxy_->Partition({"a"});
  client.Close();
  other_client.Write("x");
  EXPECT_EQ(other_server.Read(1), "x");
  EXPECT_FALSE(server.Readable(absl::ZeroDuration()));
  proxy_->Heal();
  EXPECT_EQ(server.Read(1), "");
}

TEST_F(TcpProxyTest, APartitionStallsWhatCrossesIt) {
  Start();
  auto [ab_client, ab_server] = Connect(Route("a", "b"));
  auto [cd_client, cd_server] = Connect(Route("c", "d"));
  auto [ac_client, ac_server] = Connect(Route("a", "c"));
  proxy_->Partition({"a", "b"});
  ab_client.Write("ab");
  cd_client.Write("cd");
  ac_client.Write("ac");
  ac_server.Write("ca");
  EXPECT_EQ(ab_server.Read(2), "ab");
  EXPECT_EQ(cd_server.Read(2), "cd");
  EXPECT_FALSE(ac_server.Readable(absl::ZeroDuration()));
  EXPECT_FALSE(ac_client.Readable(absl::ZeroDuration()));
  proxy_->Heal();
  EXPECT_EQ(ac_server.Read(2), "ac");
  EXPECT_EQ(ac_client.Read(2), "ca");
}

TEST_F(TcpProxyTest, ResetEndsBothSides) {
  Start();
  auto [client, server] = Connect(Route("a", "b"));
  auto [kept_client, kept_server] = Connect(Route("c", "b"));
  proxy_->Reset("*", "a");
  EXPECT_EQ(client.Read(1), "reset");
  EXPECT_EQ(server.Read(1), "reset");
  kept_client.Write("kept");
  EXPECT_EQ(kept_server.Read(4), "kept");
}

TEST_F(TcpProxyTest, AResetOfOnePartyReachesTheOther) {
  Start();
  auto [client, server] = Connect(Route("a", "b"));
  const linger now = {1, 0};
  setsockopt(client.fd(), SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  client.Close();
  EXPECT_EQ(server.Read(1), "reset");
}

TEST_F(TcpProxyTest, ABandwidthHoldsInVirtualTime) {
  TcpProxyOptions options;
  options.virtual_time = true;
  Start(options);
  LinkRule narrow;
  narrow.bytes_per_second = 10'000;
  proxy_->SetRule("a", "*", narrow);
  auto [client, server] = Connect(Route("a", "b"));
  client.Write(std::string(20'000, 'x'));
  ASSERT_TRUE(AwaitTaken(20'000));
  proxy_->Advance(absl::Seconds(1));
  EXPECT_EQ(server.Read(10'000).size(), 10'000u);
  EXPECT_EQ(Given(), 10'000);
  proxy_->Advance(absl::Seconds(1));
  EXPECT_EQ(server.Read(10'000).size(), 10'000u);
}

TEST_F(TcpProxyTest, BuffersAreBounded) {
  TcpProxyOptions options;
  options.virtual_time = true;
  options.buffer_bytes = 1000;
  Start(options);
  LinkRule slow;
  slow.delay = absl::Seconds(1);
  proxy_->SetRule("*", "*", slow);
  auto [client, server] = Connect(Route("a", "b"));
  client.Write(std::string(5000, 'x'));
  std::string received;
  for (int round = 1; round <= 5; ++round) {
    ASSERT_TRUE(AwaitTaken(1000 * round));
    // Each loop of the proxy would have taken more, had it the room.
    EXPECT_TRUE(proxy_->Await([&](const ProxyCounters& c) { return c.bytes_taken == 1000 * round; },
                              absl::ZeroDuration()));
    proxy_->Advance(absl::Seconds(1));
    received += server.Read(1000);
  }
  EXPECT_EQ(received, std::string(5000, 'x'));
}

TEST_F(TcpProxyTest, MoreConnectionsThanItsBoundAreReset) {
  TcpProxyOptions options;
  options.connections_max = 1;
  Start(options);
  const int port = Route("a", "b");
  auto [client, server] = Connect(port);
  Socket second(socket(AF_INET, SOCK_STREAM, 0));
  const sockaddr_in address = Loopback(port);
  ASSERT_EQ(connect(second.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(second.Read(1), "reset");
  client.Write("still");
  EXPECT_EQ(server.Read(5), "still");
}

TEST_F(TcpProxyTest, ATargetThatRefusesResetsTheClient) {
  Start();
  Socket closed(socket(AF_INET, SOCK_STREAM, 0));
  sockaddr_in own = Loopback(0);
  socklen_t size = sizeof(own);
  ASSERT_EQ(bind(closed.fd(), reinterpret_cast<sockaddr*>(&own), size), 0);
  ASSERT_EQ(getsockname(closed.fd(), reinterpret_cast<sockaddr*>(&own), &size), 0);
  const auto port = proxy_->AddRoute({"a", "b", "127.0.0.1", ntohs(own.sin_port)});
  ASSERT_TRUE(port.ok());
  Socket client(socket(AF_INET, SOCK_STREAM, 0));
  const sockaddr_in address = Loopback(*port);
  ASSERT_EQ(connect(client.fd(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)), 0);
  EXPECT_EQ(client.Read(1), "reset");
}

TEST_F(TcpProxyTest, AddressesAreChecked) {
  Start();
  EXPECT_THAT(std::string(proxy_->AddRoute({"a", "b", "localhost", 1}).status().message()),
              HasSubstr("'localhost', port 1 is no IPv4 address and port"));
  EXPECT_THAT(std::string(proxy_->AddRoute({"a", "b", "127.0.0.1", 70000}).status().message()),
              HasSubstr("port 70000"));
  EXPECT_FALSE(TcpProxy::Start({.buffer_bytes = 0}).ok());
}

}  // namespace
}  // namespace conclave
