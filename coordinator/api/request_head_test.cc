#include "coordinator/api/request_head.h"

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

RequestHead Accepted(const std::string& head) {
  const auto parsed = ParseRequestHead(head);
  const RequestHead* accepted = std::get_if<RequestHead>(&parsed);
  EXPECT_NE(accepted, nullptr) << head << std::get<HttpRefusal>(parsed).message;
  return accepted == nullptr ? RequestHead{} : *accepted;
}

void ExpectRefused(const std::string& head, int status, const char* part) {
  const auto parsed = ParseRequestHead(head);
  const HttpRefusal* refusal = std::get_if<HttpRefusal>(&parsed);
  ASSERT_NE(refusal, nullptr) << head;
  EXPECT_EQ(refusal->status, status) << head;
  EXPECT_THAT(refusal->message, HasSubstr(part)) << head;
}

// POST / with these further lines.
std::string Post(const std::string& lines) {
  return absl::StrCat("POST /x HTTP/1.1\r\nHost: a\r\n", lines, "\r\n");
}

TEST(RequestHeadTest, PlainRequests) {
  const RequestHead get = Accepted("GET /v1/models?x=1 HTTP/1.1\r\nhost: localhost:8000\r\n\r\n");
  EXPECT_EQ(get.method, "GET");
  EXPECT_EQ(get.path, "/v1/models");
  EXPECT_TRUE(get.keep_alive);
  EXPECT_FALSE(get.content_length.has_value());
  const RequestHead post =
      Accepted(Post("Content-Length: 12\r\nAuthorization:  Bearer x \r\nExpect: 100-continue\r\n"
                    "Connection: keep-alive, Close\r\nEmpty:\r\n"));
  EXPECT_EQ(post.content_length, 12u);
  EXPECT_EQ(post.authorization, "Bearer x");
  EXPECT_TRUE(post.expects_continue);
  EXPECT_FALSE(post.keep_alive);
  EXPECT_TRUE(Accepted(Post("Transfer-Encoding: Chunked\r\n")).chunked);
  const RequestHead old = Accepted("GET / HTTP/1.0\r\n\r\n");
  EXPECT_TRUE(old.http10);
  EXPECT_FALSE(old.keep_alive);
}

TEST(RequestHeadTest, Lengths) {
  ExpectRefused(Post("Content-Length: 3\r\nContent-Length: 3\r\n"), 400, "repeated");
  ExpectRefused(Post("Content-Length: 3\r\ncontent-length: 4\r\n"), 400, "repeated");
  for (const char* value : {"3, 3", "+3", "-1", "0x3", "3 3", "3.0", "", "three"}) {
    ExpectRefused(Post(absl::StrCat("Content-Length: ", value, "\r\n")), 400, "Content-Length");
  }
  ExpectRefused(Post("Content-Length: 99999999999999999999\r\n"), 413, "Content-Length");
}

TEST(RequestHeadTest, TransferEncodings) {
  for (const char* value : {"xchunked", "gzip, chunked", "chunked, chunked", "identity", "gzip", "",
                            "chunked;q=1", "\"chunked\""}) {
    ExpectRefused(Post(absl::StrCat("Transfer-Encoding: ", value, "\r\n")), 400,
                  "Transfer-Encoding");
  }
  ExpectRefused(Post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), 400,
                "Transfer-Encoding");
  ExpectRefused(Post("Transfer-Encoding: chunked\r\nContent-Length: 3\r\n"), 400, "exclude");
  ExpectRefused(Post("Content-Length: 3\r\nTransfer-Encoding: chunked\r\n"), 400, "exclude");
  ExpectRefused("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400, "HTTP/1.1");
}

TEST(RequestHeadTest, Hosts) {
  ExpectRefused("GET / HTTP/1.1\r\n\r\n", 400, "Host");
  ExpectRefused("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400, "Host");
  ExpectRefused("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400, "Host");
  ExpectRefused("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400, "Host");
}

TEST(RequestHeadTest, MalformedLines) {
  ExpectRefused(Post("X: a\r\n b\r\n"), 400, "folded");
  ExpectRefused(Post("X: a\r\n\tb\r\n"), 400, "folded");
  ExpectRefused(Post("Transfer-Encoding : chunked\r\n"), 400, "Name: value");
  ExpectRefused(Post("no colon\r\n"), 400, "Name: value");
  ExpectRefused(Post(": empty\r\n"), 400, "Name: value");
  ExpectRefused(Post("X: a\nContent-Length: 3\r\n"), 400, "control");
  ExpectRefused(Post("X: a\rb\r\n"), 400, "control");
  ExpectRefused(Post(absl::StrCat("X: a", std::string(1, '\0'), "b\r\n")), 400, "control");
  ExpectRefused("GET /\r\nHost: a\r\n\r\n", 400, "request line");
  ExpectRefused("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request line");
  ExpectRefused("\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", 400, "request line");
  ExpectRefused("GET http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400, "path");
  ExpectRefused("GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400, "escaped");
  ExpectRefused("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505, "HTTP/1.1");
  ExpectRefused("GET / FTP/1.1\r\nHost: a\r\n\r\n", 400, "protocol");
  ExpectRefused(Post("Expect: miracles\r\n"), 417, "100-continue");
  ExpectRefused("GET / HTTP/1.1\r\nHost: a\r\n", 400, "cut short");
  std::string many;
  for (int i = 0; i < 101; ++i) absl::StrAppend(&many, "X-", i, ": 1\r\n");
  ExpectRefused(Post(many), 431, "100");
}

TEST(BearerTest, MatchesTheTokenOnly) {
  EXPECT_TRUE(BearerMatches("Bearer secret", "secret"));
  EXPECT_TRUE(BearerMatches("bearer  secret", "secret"));
  for (const char* wrong : {"", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets",
                            "Basic secret", "secret", "Bearer SECRET"}) {
    EXPECT_FALSE(BearerMatches(wrong, "secret")) << wrong;
  }
  EXPECT_FALSE(BearerMatches("Bearer ", ""));
  EXPECT_FALSE(BearerMatches("", ""));
}

}  // namespace
}  // namespace conclave
