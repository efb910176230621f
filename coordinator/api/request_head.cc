#include "coordinator/api/request_head.h"

#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

namespace conclave {
namespace {

constexpr size_t kLengthDigitsMax = 15;

bool IsTokenCharacter(char c) {
  return absl::ascii_isalnum(c) ||
         absl::string_view("!#$%&'*+-.^_`|~").find(c) != absl::string_view::npos;
}

bool IsToken(absl::string_view text) {
  for (char c : text) {
    if (!IsTokenCharacter(c)) return false;
  }
  return !text.empty();
}

bool IsVisible(char c) { return c > 0x20 && c < 0x7f; }

absl::string_view TrimSpaces(absl::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// The parse of one head; the first refusal stands.
class HeadParser {
 public:
  std::variant<RequestHead, HttpRefusal> Parse(absl::string_view head) {
    if (!absl::ConsumeSuffix(&head, "\r\n\r\n")) return HttpRefusal{400, "the head is cut short"};
    const std::vector<absl::string_view> lines = absl::StrSplit(head, "\r\n");
    if (lines.size() > kHeadFieldsMax + 1) {
      return HttpRefusal{431, absl::StrCat("more than ", kHeadFieldsMax, " header fields")};
    }
    ReadRequestLine(lines[0]);
    for (size_t i = 1; i < lines.size() && !refusal_; ++i) ReadField(lines[i]);
    if (!refusal_) CheckWhole();
    if (refusal_) return *refusal_;
    return head_;
  }

 private:
  void Refuse(int status, absl::string_view message) {
    if (!refusal_) refusal_ = HttpRefusal{status, std::string(message)};
  }

  void ReadRequestLine(absl::string_view line) {
    const std::vector<absl::string_view> parts = absl::StrSplit(line, ' ');
    if (parts.size() != 3 || !IsToken(parts[0]) || parts[1].empty()) {
      return Refuse(400, "the request line is not 'METHOD TARGET HTTP/1.1'");
    }
    if (parts[2] != "HTTP/1.1" && parts[2] != "HTTP/1.0") {
      return absl::StartsWith(parts[2], "HTTP/") ? Refuse(505, "use HTTP/1.1")
                                                 : Refuse(400, "the protocol is not HTTP/1.1");
    }
    for (char c : parts[1]) {
      if (!IsVisible(c)) return Refuse(400, "the target holds a character that must be escaped");
    }
    if (parts[1][0] != '/') return Refuse(400, "the target must be a path that starts with '/'");
    head_.method = std::string(parts[0]);
    head_.path = std::string(parts[1].substr(0, parts[1].find('?')));
    head_.http10 = parts[2] == "HTTP/1.0";
    head_.keep_alive = !head_.http10;
  }

  void ReadField(absl::string_view line) {
    if (line.empty() || line[0] == ' ' || line[0] == '\t') {
      return Refuse(400, "a header line is folded; write each field on one line");
    }
    const size_t colon = line.find(':');
    if (colon == absl::string_view::npos || !IsToken(line.substr(0, colon))) {
      return Refuse(400, "a header line is not 'Name: value'");
    }
    const absl::string_view value = TrimSpaces(line.substr(colon + 1));
    for (char c : value) {
      if ((static_cast<uint8_t>(c) < 0x20 && c != '\t') || c == 0x7f) {
        return Refuse(400, "a header value holds a control character");
      }
    }
    ReadKnownField(absl::AsciiStrToLower(line.substr(0, colon)), value);
  }

  void ReadKnownField(absl::string_view name, absl::string_view value) {
    if (name == "host") {
      if (++hosts_ > 1) return Refuse(400, "the Host field is repeated; send it once");
      for (char c : value) {
        if (!IsVisible(c) || c == ',') return Refuse(400, "the Host field is not one host");
      }
      if (value.empty()) Refuse(400, "the Host field is empty");
    } else if (name == "content-length") {
      uint64_t length = 0;
      if (head_.content_length) return Refuse(400, "Content-Length is repeated; send it once");
      for (char c : value) {
        if (!absl::ascii_isdigit(c)) return Refuse(400, "Content-Length is not one decimal number");
      }
      if (value.size() > kLengthDigitsMax) return Refuse(413, "Content-Length is too large");
      if (!absl::SimpleAtoi(value, &length)) return Refuse(400, "Content-Length is empty");
      head_.content_length = length;
    } else if (name == "transfer-encoding") {
      if (head_.chunked || !absl::EqualsIgnoreCase(value, "chunked")) {
        return Refuse(400, "Transfer-Encoding must be a single 'chunked'");
      }
      head_.chunked = true;
    } else if (name == "expect") {
      if (!absl::EqualsIgnoreCase(value, "100-continue")) {
        return Refuse(417, "Expect must be 100-continue");
      }
      head_.expects_continue = true;
    } else if (name == "connection") {
      for (absl::string_view option : absl::StrSplit(value, ',')) {
        if (absl::EqualsIgnoreCase(TrimSpaces(option), "close")) head_.keep_alive = false;
      }
    } else if (name == "authorization") {
      if (++authorizations_ > 1) return Refuse(400, "Authorization is repeated; send it once");
      head_.authorization = std::string(value);
    }
  }

  void CheckWhole() {
    if (hosts_ == 0 && !head_.http10) Refuse(400, "the Host field is missing");
    if (head_.chunked && head_.http10) Refuse(400, "Transfer-Encoding needs HTTP/1.1");
    if (head_.chunked && head_.content_length) {
      Refuse(400, "Content-Length and Transfer-Encoding exclude each other; send one");
    }
  }

  RequestHead head_;
  int hosts_ = 0;
  int authorizations_ = 0;
  std::optional<HttpRefusal> refusal_;
};

}  // namespace

std::variant<RequestHead, HttpRefusal> ParseRequestHead(absl::string_view head) {
  return HeadParser().Parse(head);
}

bool BearerMatches(absl::string_view authorization, absl::string_view token) {
  constexpr absl::string_view kScheme = "bearer ";
  if (token.empty() || authorization.size() < kScheme.size() ||
      !absl::EqualsIgnoreCase(authorization.substr(0, kScheme.size()), kScheme)) {
    return false;
  }
  const absl::string_view given = TrimSpaces(authorization.substr(kScheme.size()));
  // Every byte of the token is looked at whatever is given; volatile keeps the compiler from
  // stopping early.
  volatile uint8_t difference = given.size() == token.size() ? 0 : 1;
  for (size_t i = 0; i < token.size(); ++i) {
    const char c = i < given.size() ? given[i] : '\0';
    difference = difference | static_cast<uint8_t>(c ^ token[i]);
  }
  return difference == 0;
}

}  // namespace conclave
