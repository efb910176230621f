// What a hostile or broken client may try: request smuggling, oversize, slowness, too many
// connections.
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "coordinator/api/api_test_kit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

class HttpLimitsTest : public ::testing::Test {
 protected:
  HttpLimitsTest() {
    options_.model = "m";
    options_.shape.vocab = 4096;
    options_.shape.context_tokens = 2048;
    cluster_.SetState(ClusterState::kServing, "");
  }
  int Start() {
    server_ = *ApiServer::Start(options_, cluster_, nullptr);
    return server_->port();
  }

  // The server answers `status`, closes, and never sees a second request in what follows.
  void ExpectRefused(const std::string& bytes, int status) {
    TestClient client(server_->port());
    client.Send(bytes);
    const TestReply reply = client.ReadReply();
    EXPECT_EQ(reply.status, status) << bytes.substr(0, 300);
    EXPECT_TRUE(boost::json::parse(reply.body).at("error").at("message").is_string());
    EXPECT_THAT(reply.head, HasSubstr("Connection: close"));
    EXPECT_TRUE(client.AwaitClose());
    EXPECT_EQ(cluster_.open(), 0u);
  }

  ApiOptions options_;
  FakeCluster cluster_;
  std::unique_ptr<ApiServer> server_;
};

TEST_F(HttpLimitsTest, SmugglingVectorsAreRefused) {
  Start();
  const std::string hidden = RequestText("POST", "/v1/completions", R"({"prompt": [1]})");
  const std::string start = "POST /v1/models HTTP/1.1\r\nHost: a\r\n";
  for (const char* lines :
       {"Content-Length: 3\r\nContent-Length: 3\r\n", "Content-Length: 3, 3\r\n",
        "Transfer-Encoding: xchunked\r\n", "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n", "Content-Length: +3\r\n",
        "X: a\r\n folded\r\n", "Transfer-Encoding : chunked\r\n", "Host: b\r\n",
        "X: a\nContent-Length: 5\r\n"}) {
    ExpectRefused(start + lines + "\r\nabc" + hidden, 400);
  }
  ExpectRefused(
      "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden, 400);
  ExpectRefused("GET /v1/models HTTP/1.1\r\n\r\n" + hidden, 400);
}

TEST_F(HttpLimitsTest, ChunkedBodies) {
  const int port = Start();
  TestClient client(port);
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"pro");
  client.Send("\r\nc\r\nmpt\": [1.5]}\r\n0\r\n\r\n");
  const TestReply reply = client.ReadReply();
  EXPECT_EQ(reply.status, 400);
  EXPECT_THAT(reply.body, HasSubstr("1.5"));
  const std::string start =
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  ExpectRefused(start + "zz\r\nabc", 400);
  ExpectRefused(start + "ffffffffffffffffff\r\nabc", 400);
  ExpectRefused(start + "3\r\nabcd\r\n0\r\n\r\n", 400);
}

TEST_F(HttpLimitsTest, OversizeHeadsAndBodies) {
  options_.http.limits.body_bytes_max = 1000;
  Start();
  ExpectRefused("GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(20000, 'a'), 431);
  ExpectRefused("GET / HTTP/1.1\r\nHost: a\r\nX: " + std::string(20000, 'a') + "\r\n\r\n", 431);
  ExpectRefused(RequestText("POST", "/v1/completions", std::string(1001, ' ')), 413);
  ExpectRefused("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 999999999999\r\n\r\n", 413);
  std::string chunks = "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (int i = 0; i < 5; ++i) absl::StrAppend(&chunks, "ff\r\n", std::string(255, 'a'), "\r\n");
  ExpectRefused(chunks, 413);
  // At the limit it is accepted.
  EXPECT_EQ(
      Ask(server_->port(), RequestText("POST", "/v1/completions", std::string(1000, ' '))).status,
      400);
}

TEST_F(HttpLimitsTest, BodyByByte) {
  const int port = Start();
  TestClient client(port);
  for (char byte : RequestText("POST", "/v1/completions", R"({"prompt": [9]})")) {
    client.Send(absl::string_view(&byte, 1));
  }
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  EXPECT_EQ(cluster_.RequestOf(RequestId{1}).prompt, std::vector<int32_t>{9});
}

TEST_F(HttpLimitsTest, ExpectContinue) {
  const int port = Start();
  TestClient client(port);
  client.Send(
      "POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n"
      "Expect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("{}");
  EXPECT_EQ(client.ReadReply().status, 400);
}

TEST_F(HttpLimitsTest, SlowAndSilentClientsAreCut) {
  options_.http.limits.idle_max = absl::Milliseconds(150);
  options_.http.limits.head_max = absl::Milliseconds(150);
  options_.http.limits.body_max = absl::Milliseconds(150);
  const int port = Start();
  TestClient silent(port);
  EXPECT_TRUE(silent.AwaitClose());
  TestClient head(port);
  head.Send("GET /v1/models HT");
  EXPECT_EQ(head.ReadReply().status, 408);
  EXPECT_TRUE(head.AwaitClose());
  TestClient body(port);
  body.Send("POST /v1/completions HTTP/1.1\r\nHost: a\r\nContent-Length: 20\r\n\r\n{\"pro");
  EXPECT_EQ(body.ReadReply().status, 408);
  EXPECT_TRUE(body.AwaitClose());
  // A stream in progress is not idle.
  TestClient stream(port);
  stream.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1], "stream": true})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  TestClient later(port);
  EXPECT_TRUE(later.AwaitClose());
  cluster_.Step();
  EXPECT_THAT(stream.ReadUntil("\n\n"), HasSubstr("data: "));
}

TEST_F(HttpLimitsTest, TooManyConnections) {
  options_.http.limits.connections_max = 2;
  const int port = Start();
  TestClient a(port), b(port);
  a.Send(RequestText("GET", "/v1/models"));
  b.Send(RequestText("GET", "/v1/models"));
  EXPECT_EQ(a.ReadReply().status, 200);
  EXPECT_EQ(b.ReadReply().status, 200);
  TestClient c(port);
  EXPECT_EQ(c.ReadReply().status, 503);
  EXPECT_TRUE(c.AwaitClose());
}

TEST_F(HttpLimitsTest, OldProtocolStreamsWithoutChunks) {
  const int port = Start();
  TestClient client(port);
  const std::string body = R"({"prompt": [1], "max_tokens": 1, "stream": true})";
  client.Send(absl::StrCat("POST /v1/completions HTTP/1.0\r\nContent-Length: ", body.size(),
                           "\r\n\r\n", body));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  cluster_.Step();
  const std::string head = client.ReadUntil("\r\n\r\n");
  EXPECT_FALSE(absl::StrContains(head, "chunked"));
  EXPECT_THAT(client.ReadUntil("[DONE]\n\n"), HasSubstr("data: "));
  EXPECT_TRUE(client.AwaitClose());
}

TEST_F(HttpLimitsTest, OccupiedPortAndBadAddresses) {
  options_.http.port = Start();
  const auto second = ApiServer::Start(options_, cluster_, nullptr);
  EXPECT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr(absl::StrCat(options_.http.port)));
  EXPECT_THAT(std::string(second.status().message()), HasSubstr("in use"));
  options_.http.port = 70000;
  EXPECT_EQ(ApiServer::Start(options_, cluster_, nullptr).status().code(),
            absl::StatusCode::kInvalidArgument);
  options_.http.port = 0;
  options_.http.host = "no host";
  EXPECT_THAT(std::string(ApiServer::Start(options_, cluster_, nullptr).status().message()),
              HasSubstr("no host"));
}

}  // namespace
}  // namespace conclave
