// The head of an HTTP/1 request, read strictly: whatever two implementations could read differently
// (request smuggling) is refused before a lenient parser sees it. Pure functions over text; any
// thread. Source: RFC 9110 and 9112.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <variant>

#include "absl/strings/string_view.h"

namespace conclave {

constexpr size_t kHeadBytesMax = 16 << 10;
constexpr int kHeadFieldsMax = 100;

struct RequestHead {
  std::string method;
  std::string path;  // the target up to '?'
  std::string authorization;
  bool http10 = false;
  bool keep_alive = true;
  bool chunked = false;
  bool expects_continue = false;
  std::optional<uint64_t> content_length;
};

// Why a request is refused: the status to answer with before the connection is closed.
struct HttpRefusal {
  int status = 400;
  std::string message;
};

// `head`: from the request line through the empty line that ends it. Refuses, besides what is
// malformed: more than one or no Host, a repeated or listed Content-Length, any Transfer-Encoding
// but a single "chunked" on HTTP/1.1 without Content-Length, folded lines, bare CR or LF, a space
// before a colon.
std::variant<RequestHead, HttpRefusal> ParseRequestHead(absl::string_view head);

// True when `authorization` is "Bearer TOKEN" with this token. Time does not depend on where the
// two differ. An empty `token` matches nothing.
bool BearerMatches(absl::string_view authorization, absl::string_view token);

}  // namespace conclave
