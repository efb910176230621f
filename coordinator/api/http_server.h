// HttpServer: HTTP/1.1 over TCP on one thread of its own, with a limit on everything a client can
// make grow or wait: head, body, connections, unread output, silence. It reads requests, hands each
// to a handler on its thread, and writes what the handler answers, whole or as a stream. Owned by
// ApiServer. Boost is confined to http_server.cc and http_connection.cc.
#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "coordinator/api/request_head.h"

namespace conclave {

struct HttpLimits {
  size_t body_bytes_max = 4 << 20;
  size_t unread_bytes_max = 1 << 20;  // of a stream that its client does not read
  int connections_max = 1024;
  absl::Duration idle_max = absl::Seconds(75);  // between requests
  absl::Duration head_max = absl::Seconds(10);  // from the first byte of a head to its end
  absl::Duration body_max = absl::Seconds(60);
  absl::Duration write_max = absl::Seconds(20);  // without a byte leaving
  absl::Duration linger_max = absl::Seconds(1);  // of the last answer, and of Stop
};

struct HttpRequest {
  RequestHead head;
  std::string body;
};

struct HttpReply {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::vector<std::pair<std::string, std::string>> fields = {};  // further header fields
};

// One request and its answer. Used on the server's thread only; may be kept as long as the answer
// takes. Calls after the connection is gone do nothing.
class HttpExchange {
 public:
  virtual ~HttpExchange() = default;
  virtual const HttpRequest& request() const = 0;
  // The whole answer. Exactly once, unless BeginStream is called.
  virtual void Reply(HttpReply reply) = 0;
  // 200 and a body that grows. A client that leaves unread_bytes_max unread is cut.
  virtual void BeginStream(absl::string_view content_type) = 0;
  virtual void Write(absl::string_view data) = 0;
  // Ends the stream; closes the connection too unless `keep_alive`.
  virtual void EndStream(bool keep_alive) = 0;
  // `gone` runs once if the client leaves or is cut before the answer is complete.
  virtual void OnGone(std::function<void()> gone) = 0;
};

using HttpHandler = std::function<void(std::shared_ptr<HttpExchange>)>;

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // an address, or "localhost"
  int port = 0;                    // 0: the system chooses
  HttpLimits limits;
};

// Runs functions on the server's thread. Thread-safe; after the server stopped, functions are
// dropped.
class HttpLoop {
 public:
  virtual ~HttpLoop() = default;
  virtual void Post(std::function<void()> function) = 0;
  virtual void PostAfter(absl::Duration delay, std::function<void()> function) = 0;
};

class HttpServer {
 public:
  virtual ~HttpServer() = default;  // stops
  // Binds the port; clients wait until Serve. InvalidArgument: bad host or port. Unavailable: the
  // port is taken.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Listen(const HttpServerOptions& options);
  // Starts the thread. Once.
  virtual void Serve(HttpHandler handler) = 0;
  virtual int port() const = 0;
  virtual std::shared_ptr<HttpLoop> loop() = 0;
  // Takes no new requests, gives answers in progress linger_max to leave, joins the thread. From
  // another thread only.
  virtual void Stop() = 0;
};

}  // namespace conclave
