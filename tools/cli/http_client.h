// HttpClient: the client side of a coordinator's HTTP, over libcurl: whole answers, and server-sent
// events as they come. Errors carry the server's message. One thread at a time.
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"

namespace conclave {

struct HttpResponse {
  int code = 0;
  std::string body;
};

class HttpClient {
 public:
  struct Options {
    std::string base_url;                          // "http://127.0.0.1:8000"
    std::string bearer;                            // sent as Authorization when not empty
    absl::Duration timeout = absl::Minutes(10);    // of a whole exchange
    const std::atomic<bool>* cancelled = nullptr;  // true aborts the transfer (Ctrl-C)
  };
  explicit HttpClient(Options options) : options_(std::move(options)) {}

  // Unavailable when nobody answers, Cancelled, DeadlineExceeded; any HTTP code is an answer.
  absl::StatusOr<HttpResponse> Get(absl::string_view path) const;
  absl::StatusOr<HttpResponse> Post(absl::string_view path, absl::string_view json) const;

  // Posts and calls `on_event` with the data of each server-sent event up to "[DONE]". An HTTP
  // error code becomes a Status with the server's message.
  absl::Status PostStream(absl::string_view path, absl::string_view json,
                          const std::function<void(absl::string_view)>& on_event) const;

 private:
  Options options_;
};

// The Status of an answer that is not 200: InvalidArgument for 400 and 413, Unavailable for 503,
// and so on, with the message of its OpenAI-style error object.
absl::Status StatusFromHttp(const HttpResponse& response, absl::string_view what);

}  // namespace conclave
