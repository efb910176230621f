#include "coordinator/api/http_server.h"

#include <algorithm>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/steady_timer.hpp>
#include <chrono>
#include <map>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "coordinator/api/http_connection.h"
#include "coordinator/api/openai_codec.h"
#include "glog/logging.h"

namespace conclave {
namespace {

namespace asio = boost::asio;
using asio::ip::tcp;
using Error = boost::system::error_code;

constexpr int kListenBacklog = 512;
constexpr absl::Duration kAcceptPause = absl::Milliseconds(100);  // after EMFILE and its like

// Keeps the io_context reachable for Post while it exists.
class AsioLoop : public HttpLoop {
 public:
  explicit AsioLoop(asio::io_context& context) : context_(&context) {}

  void Post(std::function<void()> function) override {
    absl::MutexLock lock(&mutex_);
    if (context_ != nullptr) asio::post(*context_, std::move(function));
  }

  void PostAfter(absl::Duration delay, std::function<void()> function) override {
    absl::MutexLock lock(&mutex_);
    if (context_ == nullptr) return;
    auto timer = std::make_shared<asio::steady_timer>(*context_, absl::ToChronoMilliseconds(delay));
    timer->async_wait([timer, function = std::move(function)](Error error) {
      if (!error) function();
    });
  }

  void Close() {
    absl::MutexLock lock(&mutex_);
    context_ = nullptr;
  }

 private:
  absl::Mutex mutex_;
  asio::io_context* context_ ABSL_GUARDED_BY(mutex_);
};

absl::StatusOr<tcp::endpoint> EndpointOf(const HttpServerOptions& options) {
  if (options.port < 0 || options.port > 65535) {
    return absl::InvalidArgumentError(
        absl::StrCat("port ", options.port, " is not one from 0 (any free one) to 65535"));
  }
  Error error;
  const std::string host = options.host == "localhost" ? "127.0.0.1" : options.host;
  const asio::ip::address address = asio::ip::make_address(host, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "host '", options.host, "' is not an address; use for example 127.0.0.1 or 0.0.0.0"));
  }
  return tcp::endpoint(address, static_cast<uint16_t>(options.port));
}

class AsioServer : public HttpServer {
 public:
  explicit AsioServer(const HttpServerOptions& options)
      : options_(options), loop_(std::make_shared<AsioLoop>(context_)) {}
  ~AsioServer() override {
    Stop();
    loop_->Close();
  }

  absl::Status Bind() {
    ASSIGN_OR_RETURN(const tcp::endpoint endpoint, EndpointOf(options_));
    Error error;
    acceptor_.open(endpoint.protocol(), error);
    // Connections of an earlier process that linger in TIME_WAIT do not occupy the port.
    if (!error) acceptor_.set_option(tcp::acceptor::reuse_address(true), error);
    if (!error) acceptor_.bind(endpoint, error);
    if (!error) acceptor_.listen(kListenBacklog, error);
    if (!error) port_ = acceptor_.local_endpoint(error).port();
    if (error) {
      return absl::UnavailableError(absl::StrCat(
          "cannot listen on ", options_.host, ":", options_.port, ": ", error.message(),
          "; choose another port (0: any free one) or stop the process that holds it"));
    }
    return absl::OkStatus();
  }

  void Serve(HttpHandler handler) override {
    handler_ = std::move(handler);
    Accept();
    thread_ = std::thread([this] { context_.run(); });
  }

  int port() const override { return port_; }
  std::shared_ptr<HttpLoop> loop() override { return loop_; }

  void Stop() override {
    if (!thread_.joinable()) return;
    CHECK(thread_.get_id() != std::this_thread::get_id()) << "Stop is for other threads";
    asio::post(context_, [this] { BeginStop(); });
    thread_.join();
    loop_->Close();
  }

 private:
  void Accept() {
    acceptor_.async_accept([this](Error error, tcp::socket socket) {
      if (stopping_) return;
      if (error) {
        pause_.expires_after(absl::ToChronoMilliseconds(kAcceptPause));
        pause_.async_wait([this](Error) {
          if (!stopping_) Accept();
        });
        return;
      }
      Admit(std::move(socket));
      Accept();
    });
  }

  void Admit(tcp::socket socket) {
    if (connections_.size() >= static_cast<size_t>(options_.limits.connections_max)) {
      const std::string body =
          ErrorJson({.http = 503,
                     .message = absl::StrCat("all ", options_.limits.connections_max,
                                             " connections are in use"),
                     .type = "service_unavailable_error"});
      const std::string text = absl::StrCat(
          "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\nConnection: "
          "close\r\n",
          "Retry-After: 1\r\nContent-Length: ", body.size(), "\r\n\r\n", body);
      // A courtesy: the empty send buffer of a new socket takes it at once, or it is lost.
      Error ignored;
      socket.non_blocking(true, ignored);
      socket.write_some(asio::buffer(text), ignored);
      socket.shutdown(tcp::socket::shutdown_send, ignored);
      return;
    }
    auto connection = std::make_shared<HttpConnection>(std::move(socket), options_.limits, handler_,
                                                       [this](HttpConnection* closed) {
                                                         connections_.erase(closed);
                                                         if (stopping_ && connections_.empty())
                                                           Finish();
                                                       });
    connections_.emplace(connection.get(), connection);
    connection->Start();
    if (!ticking_) Tick();
  }

  // Looks at every connection's deadlines; runs only while there are connections.
  void Tick() {
    ticking_ = !connections_.empty() && !stopping_;
    if (!ticking_) return;
    const HttpLimits& limits = options_.limits;
    const absl::Duration shortest = std::min(
        {limits.idle_max, limits.head_max, limits.body_max, limits.write_max, limits.linger_max});
    const absl::Duration period =
        std::clamp(shortest / 4, absl::Milliseconds(10), absl::Milliseconds(500));
    tick_.expires_after(absl::ToChronoMilliseconds(period));
    tick_.async_wait([this](Error error) {
      if (error) return;
      const absl::Time now = absl::Now();
      for (const auto& connection : Connections()) connection->CheckDeadlines(now);
      Tick();
    });
  }

  // A copy: a connection that closes leaves the map.
  std::vector<std::shared_ptr<HttpConnection>> Connections() const {
    std::vector<std::shared_ptr<HttpConnection>> all;
    for (const auto& [key, connection] : connections_) all.push_back(connection);
    return all;
  }

  void BeginStop() {
    stopping_ = true;
    Error ignored;
    acceptor_.close(ignored);
    pause_.cancel();
    for (const auto& connection : Connections()) connection->CloseWhenIdle();
    if (connections_.empty()) return Finish();
    tick_.expires_after(absl::ToChronoMilliseconds(options_.limits.linger_max));
    tick_.async_wait([this](Error error) {
      if (error) return;
      for (const auto& connection : Connections()) connection->Cut();
      Finish();
    });
  }

  void Finish() {
    tick_.cancel();
    context_.stop();
  }

  const HttpServerOptions options_;
  HttpHandler handler_;  // set before the thread starts
  asio::io_context context_{1};
  const std::shared_ptr<AsioLoop> loop_;
  tcp::acceptor acceptor_{context_};
  asio::steady_timer tick_{context_};
  asio::steady_timer pause_{context_};
  std::thread thread_;
  int port_ = 0;
  // The server's thread only, once it runs.
  std::map<HttpConnection*, std::shared_ptr<HttpConnection>> connections_;
  bool ticking_ = false;
  bool stopping_ = false;
};

}  // namespace

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Listen(const HttpServerOptions& options) {
  auto server = std::make_unique<AsioServer>(options);
  RETURN_IF_ERROR(server->Bind());
  return server;
}

}  // namespace conclave
