#include "tools/cli/http_client.h"

#include <curl/curl.h>

#include <boost/json.hpp>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

constexpr size_t kAnswerBytesMax = size_t{4} << 30;
constexpr size_t kEventBytesMax = size_t{16} << 20;

struct CurlDeleter {
  void operator()(CURL* handle) const { curl_easy_cleanup(handle); }
  void operator()(curl_slist* list) const { curl_slist_free_all(list); }
};

// What a transfer writes into: the whole body, or events as their lines complete.
struct Receiver {
  std::string body;
  const std::function<void(absl::string_view)>* on_event = nullptr;
  CURL* handle = nullptr;
  bool done = false;

  // Takes the complete lines off `body`.
  void DrainEvents() {
    size_t begin = 0;
    for (size_t end; (end = body.find('\n', begin)) != std::string::npos; begin = end + 1) {
      absl::string_view line(body.data() + begin, end - begin);
      absl::ConsumeSuffix(&line, "\r");
      if (!absl::ConsumePrefix(&line, "data:")) continue;
      absl::ConsumePrefix(&line, " ");
      if (line == "[DONE]") {
        done = true;
      } else {
        (*on_event)(line);
      }
    }
    body.erase(0, begin);
  }
};

size_t OnBytes(char* data, size_t size, size_t count, void* user) {
  auto& receiver = *static_cast<Receiver*>(user);
  receiver.body.append(data, size * count);
  long code = 0;  // NOLINT: libcurl's type
  curl_easy_getinfo(receiver.handle, CURLINFO_RESPONSE_CODE, &code);
  const bool events = receiver.on_event != nullptr && code == 200;
  if (events) receiver.DrainEvents();
  return receiver.body.size() > (events ? kEventBytesMax : kAnswerBytesMax) ? 0 : size * count;
}

int OnProgress(void* user, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
  const auto* cancelled = static_cast<const std::atomic<bool>*>(user);
  return cancelled != nullptr && cancelled->load() ? 1 : 0;
}

absl::Status CurlStatus(CURLcode code, const std::string& url) {
  switch (code) {
    case CURLE_OK:
      return absl::OkStatus();
    case CURLE_ABORTED_BY_CALLBACK:
      return absl::CancelledError("interrupted");
    case CURLE_OPERATION_TIMEDOUT:
      return absl::DeadlineExceededError(absl::StrCat("no answer from ", url, " in time"));
    case CURLE_URL_MALFORMAT:
    case CURLE_UNSUPPORTED_PROTOCOL:
      return absl::InvalidArgumentError(
          absl::StrCat("--url '", url, "' is not a URL; write for example http://127.0.0.1:8000"));
    default:
      return absl::UnavailableError(absl::StrCat("cannot talk to ", url, ": ",
                                                 curl_easy_strerror(code),
                                                 "; is the coordinator running there?"));
  }
}

struct Transfer {
  const HttpClient::Options& options;
  std::string url;
  const absl::string_view* json = nullptr;  // POST when set
};

absl::StatusOr<int> Perform(const Transfer& transfer, Receiver& receiver) {
  std::unique_ptr<CURL, CurlDeleter> handle(curl_easy_init());
  if (handle == nullptr) return absl::InternalError("libcurl did not start");
  CURL* curl = handle.get();
  receiver.handle = curl;
  curl_slist* list = curl_slist_append(nullptr, "Content-Type: application/json");
  list = curl_slist_append(list, "Expect:");
  if (!transfer.options.bearer.empty()) {
    list = curl_slist_append(
        list, absl::StrCat("Authorization: Bearer ", transfer.options.bearer).c_str());
  }
  std::unique_ptr<curl_slist, CurlDeleter> headers(list);
  curl_easy_setopt(curl, CURLOPT_URL, transfer.url.c_str());
  curl_easy_setopt(curl, CURLOPT_PROTOCOLS, static_cast<long>(CURLPROTO_HTTP | CURLPROTO_HTTPS));
  curl_easy_setopt(curl, CURLOPT_PROXY, "");
  curl_easy_setopt(curl, CURLOPT_HTTPHEADER, headers.get());
  curl_easy_setopt(curl, CURLOPT_NOSIGNAL, 1L);
  curl_easy_setopt(curl, CURLOPT_TIMEOUT_MS,
                   static_cast<long>(absl::ToInt64Milliseconds(transfer.options.timeout)));
  curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, &OnBytes);
  curl_easy_setopt(curl, CURLOPT_WRITEDATA, &receiver);
  curl_easy_setopt(curl, CURLOPT_NOPROGRESS, 0L);
  curl_easy_setopt(curl, CURLOPT_XFERINFOFUNCTION, &OnProgress);
  curl_easy_setopt(curl, CURLOPT_XFERINFODATA, transfer.options.cancelled);
  if (transfer.json != nullptr) {
    curl_easy_setopt(curl, CURLOPT_POSTFIELDSIZE_LARGE,
                     static_cast<curl_off_t>(transfer.json->size()));
    curl_easy_setopt(curl, CURLOPT_POSTFIELDS, transfer.json->data());
  }
  RETURN_IF_ERROR(CurlStatus(curl_easy_perform(curl), transfer.url));
  long code = 0;  // NOLINT: libcurl's type
  curl_easy_getinfo(curl, CURLINFO_RESPONSE_CODE, &code);
  return static_cast<int>(code);
}

std::string ErrorMessage(absl::string_view body) {
  boost::json::error_code error;
  const boost::json::value value =
      boost::json::parse(boost::json::string_view(body.data(), body.size()), error);
  if (!error && value.is_object()) {
    if (const auto* object = value.as_object().if_contains("error")) {
      if (object->is_object()) {
        if (const auto* message = object->as_object().if_contains("message")) {
          if (message->is_string()) return std::string(message->as_string().c_str());
        }
      }
    }
  }
  return std::string(body.substr(0, 400));
}

}  // namespace

absl::Status StatusFromHttp(const HttpResponse& response, absl::string_view what) {
  if (response.code == 200) return absl::OkStatus();
  const std::string message =
      absl::StrCat(what, ": HTTP ", response.code, ": ", ErrorMessage(response.body));
  switch (response.code) {
    case 400:
    case 413:
      return absl::InvalidArgumentError(message);
    case 401:
    case 403:
      return absl::PermissionDeniedError(message);
    case 404:
      return absl::NotFoundError(message);
    case 429:
      return absl::ResourceExhaustedError(message);
    case 503:
      return absl::UnavailableError(message);
    default:
      return absl::InternalError(message);
  }
}

absl::StatusOr<HttpResponse> HttpClient::Get(absl::string_view path) const {
  Receiver receiver;
  ASSIGN_OR_RETURN(const int code,
                   Perform({options_, absl::StrCat(options_.base_url, path)}, receiver));
  return HttpResponse{code, std::move(receiver.body)};
}

absl::StatusOr<HttpResponse> HttpClient::Post(absl::string_view path,
                                              absl::string_view json) const {
  Receiver receiver;
  ASSIGN_OR_RETURN(const int code,
                   Perform({options_, absl::StrCat(options_.base_url, path), &json}, receiver));
  return HttpResponse{code, std::move(receiver.body)};
}

absl::Status HttpClient::PostStream(absl::string_view path, absl::string_view json,
                                    const std::function<void(absl::string_view)>& on_event) const {
  Receiver receiver;
  receiver.on_event = &on_event;
  ASSIGN_OR_RETURN(const int code,
                   Perform({options_, absl::StrCat(options_.base_url, path), &json}, receiver));
  if (code != 200) return StatusFromHttp({code, receiver.body}, path);
  if (!receiver.done) {
    return absl::UnavailableError(absl::StrCat(
        "the stream of ", path, " ended early: ", "the coordinator stopped or cut the connection"));
  }
  return absl::OkStatus();
}

}  // namespace conclave
