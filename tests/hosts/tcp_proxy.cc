#include "tests/hosts/tcp_proxy.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr size_t kReadMax = 64 << 10;
constexpr absl::Duration kPollMax = absl::Seconds(1);

absl::StatusOr<sockaddr_in> AddressOf(const std::string& text, int port) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  if (port < 0 || port > 65535 || inet_pton(AF_INET, text.c_str(), &address.sin_addr) != 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("proxy: '", text, "', port ", port, " is no IPv4 address and port"));
  }
  return address;
}

// Closes such that the other end sees a reset.
void ResetSocket(int fd) {
  const linger now = {1, 0};
  setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
  close(fd);
}

struct Listener {
  int fd = -1;
  ProxyRoute route;
  sockaddr_in target = {};
};

// Side 0 connected; pipe s holds what side s sent.
struct Connection {
  Connection(const ProxyRoute& route, size_t buffer)
      : route(route), pipes{ProxyPipe(buffer), ProxyPipe(buffer)} {}
  ProxyRoute route;
  int fds[2] = {-1, -1};
  ProxyPipe pipes[2];
  bool end_passed[2] = {false, false};  // of pipe s, to the other side
  bool broken = false;
  pollfd polled[2] = {};

  const std::string& Party(int side) const { return side == 0 ? route.from : route.to; }
};

struct Rule {
  std::string from, to;
  LinkRule rule;
};

bool Fits(const std::string& pattern, const std::string& party) {
  return pattern == "*" || pattern == party;
}

class ProxyThread final : public TcpProxy {
 public:
  explicit ProxyThread(const TcpProxyOptions& options)
      : options_(options), wake_fd_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    CHECK_GE(wake_fd_, 0);
    thread_ = std::thread([this] { Run(); });
  }

  ~ProxyThread() override {
    {
      absl::MutexLock lock(&mutex_);
      stopping_ = true;
    }
    Wake();
    thread_.join();
    for (const auto& connection : connections_) ResetBoth(*connection);
    for (const auto& listener : listeners_) close(listener->fd);
    close(wake_fd_);
  }

  absl::StatusOr<int> AddRoute(const ProxyRoute& route) override;

  void SetRule(const std::string& from, const std::string& to, const LinkRule& rule) override {
    absl::MutexLock lock(&mutex_);
    rules_.erase(std::remove_if(rules_.begin(), rules_.end(),
                                [&](const Rule& r) { return r.from == from && r.to == to; }),
                 rules_.end());
    rules_.push_back({from, to, rule});
    Wake();
  }

  void Partition(const std::set<std::string>& side) override {
    absl::MutexLock lock(&mutex_);
    partitions_.push_back(side);
    Wake();
  }

  void Heal() override {
    absl::MutexLock lock(&mutex_);
    rules_.clear();
    partitions_.clear();
    Wake();
  }

  void Reset(const std::string& one, const std::string& other) override {
    absl::MutexLock lock(&mutex_);
    for (const auto& connection : connections_) {
      const std::string &a = connection->route.from, &b = connection->route.to;
      if ((Fits(one, a) && Fits(other, b)) || (Fits(one, b) && Fits(other, a))) {
        connection->broken = true;
      }
    }
    Wake();
  }

  void Advance(absl::Duration duration) override {
    absl::MutexLock lock(&mutex_);
    CHECK(options_.virtual_time) << "time is real";
    virtual_now_ += duration;
    Wake();
  }

  bool Await(const std::function<bool(const ProxyCounters&)>& fits,
             absl::Duration timeout) override {
    const auto done = [&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return fits(counters_); };
    absl::MutexLock lock(&mutex_);
    return mutex_.AwaitWithTimeout(absl::Condition(&done), timeout);
  }

 private:
  void Wake() {
    const uint64_t one = 1;
    CHECK_EQ(write(wake_fd_, &one, sizeof(one)), static_cast<ssize_t>(sizeof(one)));
  }
  absl::Time Now() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return options_.virtual_time ? virtual_now_ : absl::Now();
  }

  void Run();
  // What to poll for, and how long: until the next byte's time has come.
  absl::Duration Prepare() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Serve() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Accept(const Listener& listener) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Move(Connection& connection, int side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Take(Connection& connection, int side) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  LinkRule RuleOf(const Connection& connection, int side) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  static void ResetBoth(const Connection& connection);
  static bool Done(const Connection& connection);

  const TcpProxyOptions options_;
  const int wake_fd_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Time virtual_now_ ABSL_GUARDED_BY(mutex_) = absl::UnixEpoch();
  std::vector<Rule> rules_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::set<std::string>> partitions_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Listener>> listeners_ ABSL_GUARDED_BY(mutex_);
  std::vector<std::unique_ptr<Connection>> connections_ ABSL_GUARDED_BY(mutex_);
  ProxyCounters counters_ ABSL_GUARDED_BY(mutex_);
  std::vector<pollfd> polled_;  // of the thread
  std::thread thread_;
};

absl::StatusOr<int> ProxyThread::AddRoute(const ProxyRoute& route) {
  auto listener = std::make_unique<Listener>();
  listener->route = route;
  ASSIGN_OR_RETURN(listener->target, AddressOf(route.address, route.port));
  ASSIGN_OR_RETURN(sockaddr_in own, AddressOf(options_.listen_address, 0));
  listener->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener->fd < 0) return absl::ResourceExhaustedError("proxy: no socket");
  socklen_t size = sizeof(own);
  if (bind(listener->fd, reinterpret_cast<sockaddr*>(&own), size) != 0 ||
      listen(listener->fd, 128) != 0 ||
      getsockname(listener->fd, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
    const std::string why = std::strerror(errno);
    close(listener->fd);
    return absl::UnavailableError(
        absl::StrCat("proxy: cannot listen on ", options_.listen_address, ": ", why));
  }
  absl::MutexLock lock(&mutex_);
  listeners_.push_back(std::move(listener));
  Wake();
  return ntohs(own.sin_port);
}

LinkRule ProxyThread::RuleOf(const Connection& connection, int side) const {
  const std::string &from = connection.Party(side), &to = connection.Party(1 - side);
  LinkRule rule;
  for (const Rule& each : rules_) {
    if (Fits(each.from, from) && Fits(each.to, to)) rule = each.rule;
  }
  for (const std::set<std::string>& side_of : partitions_) {
    if (side_of.count(from) != side_of.count(to)) rule.stalled = true;
  }
  return rule;
}

void ProxyThread::Run() {
  while (true) {
    absl::Duration wait;
    {
      absl::MutexLock lock(&mutex_);
      if (stopping_) return;
      wait = Prepare();
    }
    const int64_t milliseconds =
        absl::ToInt64Milliseconds(std::min(absl::Ceil(wait, absl::Milliseconds(1)), kPollMax));
    poll(polled_.data(), polled_.size(), static_cast<int>(milliseconds));
    absl::MutexLock lock(&mutex_);
    Serve();
  }
}

absl::Duration ProxyThread::Prepare() {
  polled_.clear();
  polled_.push_back({wake_fd_, POLLIN, 0});
  for (const auto& listener : listeners_) polled_.push_back({listener->fd, POLLIN, 0});
  const absl::Time now = Now();
  absl::Time next = absl::InfiniteFuture();
  for (const auto& connection : connections_) {
    for (const int side : {0, 1}) {
      short events = 0;
      const ProxyPipe &sent = connection->pipes[side], &due = connection->pipes[1 - side];
      if (!RuleOf(*connection, side).stalled && sent.Room() > 0 && !sent.ended()) events |= POLLIN;
      if (!RuleOf(*connection, 1 - side).stalled && !connection->end_passed[1 - side]) {
        if (!due.Ready(now).empty()) {
          events |= POLLOUT;
        } else {
          next = std::min(next, due.NextRelease());
        }
      }
      // A descriptor is left out when nothing is wanted of it, or an end would keep poll awake.
      polled_.push_back({events == 0 ? -1 : connection->fds[side], events, 0});
    }
  }
  if (options_.virtual_time) return next <= now ? absl::ZeroDuration() : kPollMax;
  return std::clamp(next - now, absl::ZeroDuration(), kPollMax);
}

void ProxyThread::Serve() {
  uint64_t wakes = 0;
  while (read(wake_fd_, &wakes, sizeof(wakes)) > 0) {
  }
  // What was polled before a listener or connection came is not in polled_: they are served by what
  // they have, and sockets do not block.
  for (const auto& listener : listeners_) Accept(*listener);
  for (const auto& connection : connections_) {
    for (const int side : {0, 1}) {
      if (!connection->broken) Take(*connection, side);
      if (!connection->broken) Move(*connection, side);
    }
    if (connection->broken) ResetBoth(*connection);
    if (!connection->broken && Done(*connection)) {
      close(connection->fds[0]);
      close(connection->fds[1]);
      connection->broken = true;
    }
  }
  connections_.erase(std::remove_if(connections_.begin(), connections_.end(),
                                    [](const auto& connection) { return connection->broken; }),
                     connections_.end());
  counters_.open = static_cast<int64_t>(connections_.size());
}

void ProxyThread::Accept(const Listener& listener) {
  while (true) {
    const int client = accept4(listener.fd, nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (client < 0) return;
    const int server = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const auto* target = reinterpret_cast<const sockaddr*>(&listener.target);
    const bool room = static_cast<int>(connections_.size()) < options_.connections_max;
    if (!room || server < 0 ||
        (connect(server, target, sizeof(listener.target)) != 0 && errno != EINPROGRESS)) {
      ResetSocket(client);
      if (server >= 0) close(server);
      continue;
    }
    const int on = 1;
    for (const int fd : {client, server}) {
      setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    }
    auto connection = std::make_unique<Connection>(listener.route, options_.buffer_bytes);
    connection->fds[0] = client;
    connection->fds[1] = server;
    connections_.push_back(std::move(connection));
    ++counters_.accepted;
  }
}

void ProxyThread::Take(Connection& connection, int side) {
  ProxyPipe& pipe = connection.pipes[side];
  const LinkRule rule = RuleOf(connection, side);
  static thread_local std::string buffer(kReadMax, '\0');
  while (!rule.stalled && !pipe.ended() && pipe.Room() > 0) {
    const ssize_t size =
        recv(connection.fds[side], buffer.data(), std::min(kReadMax, pipe.Room()), 0);
    if (size > 0) {
      pipe.Put(absl::string_view(buffer.data(), size), rule, Now());
      counters_.bytes_taken += size;
    } else if (size == 0) {
      pipe.PutEnd(rule, Now());
    } else {
      // ENOTCONN: the connection to the target is still being made.
      connection.broken = errno != EAGAIN && errno != EINTR && errno != ENOTCONN;
      return;
    }
  }
}

void ProxyThread::Move(Connection& connection, int side) {
  ProxyPipe& pipe = connection.pipes[side];
  const int to = connection.fds[1 - side];
  if (RuleOf(connection, side).stalled) return;
  while (!pipe.Ready(Now()).empty()) {
    const absl::string_view bytes = pipe.Ready(Now());
    const ssize_t size = send(to, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (size < 0) {
      connection.broken = errno != EAGAIN && errno != EINTR && errno != ENOTCONN;
      return;
    }
    pipe.Took(size);
    counters_.bytes_given += size;
  }
  if (pipe.EndReady(Now()) && !connection.end_passed[side]) {
    shutdown(to, SHUT_WR);
    connection.end_passed[side] = true;
  }
}

void ProxyThread::ResetBoth(const Connection& connection) {
  ResetSocket(connection.fds[0]);
  ResetSocket(connection.fds[1]);
}

bool ProxyThread::Done(const Connection& connection) {
  return connection.end_passed[0] && connection.end_passed[1];
}

}  // namespace

absl::StatusOr<std::unique_ptr<TcpProxy>> TcpProxy::Start(const TcpProxyOptions& options) {
  RETURN_IF_ERROR(AddressOf(options.listen_address, 0).status());
  if (options.buffer_bytes == 0 || options.connections_max <= 0) {
    return absl::InvalidArgumentError("proxy: buffer_bytes and connections_max must be positive");
  }
  return std::make_unique<ProxyThread>(options);
}

}  // namespace conclave
