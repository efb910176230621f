#include "coordinator/api/api_server.h"

#include <cstring>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "boost/json.hpp"
#include "coordinator/api/api_test_kit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

namespace json = boost::json;
using ::testing::HasSubstr;

constexpr char kAdmin[] = "Authorization: Bearer letmein\r\n";

class ApiServerTest : public ::testing::Test {
 protected:
  ApiServerTest() : tokenizer_(*Tokenizer::Load("tools/demo_model")) {
    options_.model = "demo-moe";
    options_.shape.vocab = 4096;
    options_.shape.context_tokens = 2048;
    options_.shape.eos_token_ids = {0};
    options_.admin_token = "letmein";
    options_.random_seed = 5;
    options_.status_max = absl::Milliseconds(200);
    cluster_.SetState(ClusterState::kServing, "");
    Restart();
  }
  void Restart() {
    server_.reset();
    server_ = *ApiServer::Start(options_, cluster_, tokenizer_.get());
  }

  TestReply Get(absl::string_view path, absl::string_view lines = "") {
    return Ask(server_->port(), RequestText("GET", path, "", lines));
  }
  TestReply Post(absl::string_view path, absl::string_view body, absl::string_view lines = "") {
    return Ask(server_->port(), RequestText("POST", path, body, lines));
  }
  // Sends a completion and lets the cluster make `steps` steps before its answer is read.
  TestReply Complete(absl::string_view body, int steps) {
    TestClient client(server_->port());
    client.Send(RequestText("POST", "/v1/completions", body));
    EXPECT_TRUE(cluster_.AwaitOpen(1));
    for (int i = 0; i < steps; ++i) cluster_.Step();
    return client.ReadReply();
  }

  std::vector<int32_t> Expected(const std::vector<int32_t>& prompt, int count) {
    GenerationRequest request;
    request.prompt = prompt;
    std::vector<int32_t> ids;
    for (int i = 0; i < count; ++i) ids.push_back(FakeCluster::NextToken(request, i));
    return ids;
  }

  ApiOptions options_;
  FakeCluster cluster_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::unique_ptr<ApiServer> server_;
};

std::string MessageOf(const TestReply& reply) {
  return std::string(json::parse(reply.body).at("error").at("message").as_string());
}

// What the events of a stream add up to.
struct Streamed {
  std::string text;
  std::vector<int32_t> ids;
  std::string reason;
  json::value usage;
  bool done = false;
};

Streamed Join(const TestReply& reply) {
  Streamed all;
  for (const std::string& event : EventsOf(reply.body)) {
    EXPECT_FALSE(all.done);
    if (event == "[DONE]") {
      all.done = true;
      continue;
    }
    const json::value value = json::parse(event);
    if (value.as_object().contains("usage")) all.usage = value.at("usage");
    for (const json::value& choice : value.at("choices").as_array()) {
      EXPECT_EQ(all.reason, "");
      all.text += choice.at("text").as_string();
      if (choice.as_object().contains("token_ids")) {
        for (const json::value& id : choice.at("token_ids").as_array()) {
          all.ids.push_back(static_cast<int32_t>(id.as_int64()));
        }
      }
      if (choice.at("finish_reason").is_string()) {
        all.reason = std::string(choice.at("finish_reason").as_string());
      }
    }
  }
  return all;
}

TEST_F(ApiServerTest, HealthFollowsTheCluster) {
  EXPECT_EQ(Get("/health").status, 200);
  EXPECT_EQ(Get("/health/live").status, 200);
  cluster_.SetState(ClusterState::kWaiting, "2 of 4 workers are missing");
  const TestReply waiting = Get("/health");
  EXPECT_EQ(waiting.status, 503);
  EXPECT_THAT(waiting.body, HasSubstr("2 of 4 workers are missing"));
  cluster_.SetSilent(true);
  const TestReply silent = Get("/health");
  EXPECT_EQ(silent.status, 503);
  EXPECT_THAT(MessageOf(silent), HasSubstr("does not answer"));
}

TEST_F(ApiServerTest, Models) {
  const json::value models = json::parse(Get("/v1/models").body);
  EXPECT_EQ(models.at("data").at(0).at("id"), "demo-moe");
  EXPECT_EQ(models.at("data").at(0).at("max_model_len"), 2048);
}

TEST_F(ApiServerTest, UnknownPathsAndMethods) {
  EXPECT_EQ(Get("/nothing").status, 404);
  EXPECT_EQ(Get("/v1/completions").status, 405);
  const TestReply reply = Post("/health", "");
  EXPECT_EQ(reply.status, 405);
  EXPECT_THAT(reply.head, HasSubstr("Allow: GET"));
}

TEST_F(ApiServerTest, WholeCompletion) {
  const TestReply reply =
      Complete(R"({"prompt": [5, 6], "max_tokens": 7, "return_token_ids": true})", 7);
  ASSERT_EQ(reply.status, 200) << reply.body;
  const std::vector<int32_t> ids = Expected({5, 6}, 7);
  const json::value answer = json::parse(reply.body);
  EXPECT_EQ(answer.at("choices").at(0).at("token_ids"), json::array(ids.begin(), ids.end()));
  EXPECT_EQ(std::string(answer.at("choices").at(0).at("text").as_string()),
            tokenizer_->Decode(ids));
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "length");
  EXPECT_EQ(answer.at("usage").at("prompt_tokens"), 2);
  EXPECT_EQ(answer.at("usage").at("completion_tokens"), 7);
}

TEST_F(ApiServerTest, StreamedCompletion) {
  const TestReply reply = Complete(
      R"({"prompt": "Hello", "max_tokens": 20, "stream": true, "return_token_ids": true,
          "stream_options": {"include_usage": true}})",
      20);
  ASSERT_EQ(reply.status, 200);
  EXPECT_THAT(reply.head, HasSubstr("text/event-stream"));
  const Streamed all = Join(reply);
  const std::vector<int32_t> ids = Expected(*tokenizer_->Encode("Hello"), 20);
  EXPECT_EQ(all.ids, ids);
  EXPECT_EQ(all.text, tokenizer_->Decode(ids));
  EXPECT_EQ(all.reason, "length");
  EXPECT_EQ(all.usage.at("completion_tokens"), 20);
  EXPECT_TRUE(all.done);
}

TEST_F(ApiServerTest, TokensArriveAsTheyAreMade) {
  TestClient client(server_->port());
  client.Send(RequestText("POST", "/v1/completions",
                          R"({"prompt": [1], "max_tokens": 3, "stream": true})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  cluster_.Step();
  EXPECT_THAT(client.ReadUntil("\n\n"), HasSubstr("\"finish_reason\":null"));
  cluster_.Step();
  cluster_.Step();
  EXPECT_THAT(client.ReadUntil("[DONE]"), HasSubstr("\"finish_reason\":\"length\""));
}

TEST_F(ApiServerTest, StopStringEndsTheTextAndCancels) {
  const std::vector<int32_t> ids = *tokenizer_->Encode("It was the best. STOP and more");
  TestClient client(server_->port());
  client.Send(RequestText(
      "POST", "/v1/completions",
      R"({"prompt": [1], "max_tokens": 500, "stream": true, "stop": ["STOP", "zzz"]})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  for (int32_t id : ids) cluster_.Token(RequestId{1}, id);
  const Streamed all = Join(client.ReadReply());
  EXPECT_EQ(all.text, "It was the best. ");
  EXPECT_EQ(all.reason, "stop");
  EXPECT_TRUE(cluster_.AwaitCancelled(1));
}

TEST_F(ApiServerTest, EndTokenHasNoText) {
  TestClient client(server_->port());
  client.Send(RequestText(
      "POST", "/v1/completions",
      R"({"prompt": [1], "max_tokens": 50, "stop_token_ids": [400], "return_token_ids": true})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  cluster_.Token(RequestId{1}, 300);
  cluster_.Token(RequestId{1}, 400);
  cluster_.Finish(RequestId{1}, FinishReason::kStop, absl::OkStatus());
  const json::value answer = json::parse(client.ReadReply().body);
  EXPECT_EQ(std::string(answer.at("choices").at(0).at("text").as_string()),
            tokenizer_->Decode({300}));
  EXPECT_EQ(answer.at("choices").at(0).at("token_ids"), (json::array{300, 400}));
  EXPECT_EQ(answer.at("choices").at(0).at("finish_reason"), "stop");
}

TEST_F(ApiServerTest, MissingSeedsDiffer) {
  TestClient a(server_->port()), b(server_->port()), c(server_->port());
  a.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1]})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  b.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1]})"));
  ASSERT_TRUE(cluster_.AwaitOpen(2));
  c.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1], "seed": 9})"));
  ASSERT_TRUE(cluster_.AwaitOpen(3));
  EXPECT_NE(cluster_.RequestOf(RequestId{1}).sampling.seed,
            cluster_.RequestOf(RequestId{2}).sampling.seed);
  EXPECT_EQ(cluster_.RequestOf(RequestId{3}).sampling.seed, 9u);
}

TEST_F(ApiServerTest, BadRequestsNameTheField) {
  const TestReply reply = Post("/v1/completions", R"({"prompt": [1], "top_p": 7})");
  EXPECT_EQ(reply.status, 400);
  const json::value error = json::parse(reply.body).at("error");
  EXPECT_EQ(error.at("param"), "top_p");
  EXPECT_EQ(error.at("type"), "invalid_request_error");
  EXPECT_EQ(cluster_.open(), 0u);
}

TEST_F(ApiServerTest, ErrorsBeforeTheFirstTokenAreStatuses) {
  for (const char* stream : {"true", "false"}) {
    const std::string body = absl::StrCat(R"({"prompt": [1], "stream": )", stream, "}");
    cluster_.RefuseSubmits(absl::ResourceExhaustedError("the queue is full"));
    const TestReply full = Post("/v1/completions", body);
    EXPECT_EQ(full.status, 429);
    EXPECT_THAT(full.head, HasSubstr("Retry-After"));
    EXPECT_EQ(MessageOf(full), "the queue is full");
    cluster_.RefuseSubmits(absl::UnavailableError("worker w1 was lost"));
    EXPECT_EQ(Post("/v1/completions", body).status, 503);
    cluster_.RefuseSubmits(absl::InvalidArgumentError("the prompt is too long"));
    EXPECT_EQ(Post("/v1/completions", body).status, 400);
  }
}

TEST_F(ApiServerTest, ErrorInMidStreamIsAnEventAndTheEnd) {
  TestClient client(server_->port());
  client.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1], "stream": true})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  cluster_.Step();
  client.ReadUntil("\n\n");
  cluster_.Finish(RequestId{1}, FinishReason::kError, absl::UnavailableError("worker w2 was lost"));
  const std::string rest = client.ReadUntil("0\r\n\r\n");
  EXPECT_THAT(rest, HasSubstr("data: {\"error\":{\"message\":\"worker w2 was lost\""));
  EXPECT_FALSE(absl::StrContains(rest, "[DONE]"));
  EXPECT_TRUE(client.AwaitClose());
}

TEST_F(ApiServerTest, DisconnectCancels) {
  for (const char* stream : {"true", "false"}) {
    TestClient client(server_->port());
    client.Send(RequestText("POST", "/v1/completions",
                            absl::StrCat(R"({"prompt": [1], "stream": )", stream, "}")));
    ASSERT_TRUE(cluster_.AwaitOpen(1));
    client.Close();
    EXPECT_TRUE(cluster_.AwaitCancelled(stream == std::string("true") ? 1 : 2));
    EXPECT_EQ(cluster_.open(), 0u);
  }
}

TEST_F(ApiServerTest, StalledReaderIsCutAndCancelled) {
  options_.http.limits.unread_bytes_max = 64 << 10;
  Restart();
  TestClient client(server_->port(), /*receive_buffer_bytes=*/4096);
  client.Send(RequestText("POST", "/v1/completions",
                          R"({"prompt": [1], "max_tokens": 2000, "ignore_eos": true,
                              "stream": true, "return_token_ids": true})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  // More than the kernel's buffers hold, if nobody reads.
  const absl::Time end = absl::Now() + absl::Seconds(10);
  for (int i = 0; cluster_.open() > 0 && absl::Now() < end; ++i) {
    cluster_.Token(RequestId{1}, 300 + i % 1000);
    if (i % 64 == 0) std::this_thread::yield();
  }
  EXPECT_TRUE(cluster_.AwaitCancelled(1));
}

TEST_F(ApiServerTest, AdminNeedsTheToken) {
  for (const char* lines :
       {"", "Authorization: Bearer wrong\r\n", "Authorization: Basic letmein\r\n"}) {
    const TestReply reply = Get("/admin/status", lines);
    EXPECT_EQ(reply.status, 401);
    EXPECT_THAT(reply.head, HasSubstr("WWW-Authenticate: Bearer"));
    EXPECT_EQ(Get("/admin/nothing", lines).status, 401);
  }
  EXPECT_EQ(Get("/admin/nothing", kAdmin).status, 404);
  EXPECT_EQ(Post("/admin/drain", "").status, 401);
  EXPECT_FALSE(cluster_.drained());
  options_.admin_token = "";
  Restart();
  EXPECT_EQ(Get("/admin/status", "Authorization: Bearer \r\n").status, 401);
}

TEST_F(ApiServerTest, AdminStatusAndDrain) {
  const TestReply status = Get("/admin/status", kAdmin);
  EXPECT_EQ(status.status, 200);
  EXPECT_EQ(json::parse(status.body).at("requests_running"), 0);
  const TestReply drain = Post("/admin/drain", "", kAdmin);
  EXPECT_EQ(drain.status, 200);
  EXPECT_TRUE(cluster_.drained());
}

TEST_F(ApiServerTest, AdminExpertsTellsWhoServedWhat) {
  EXPECT_EQ(Get("/admin/experts", "").status, 401);
  const TestReply reply = Get("/admin/experts", kAdmin);
  EXPECT_EQ(reply.status, 200);
  const json::value body = json::parse(reply.body);
  EXPECT_EQ(body.at("counts"), json::parse("[[0.0, 0.0], [2.5, 7.0]]"));
  EXPECT_TRUE(body.at("model").is_string());
  EXPECT_EQ(Post("/admin/experts", "", kAdmin).status, 405);
}

TEST_F(ApiServerTest, AdminLogits) {
  TestClient client(server_->port());
  client.Send(
      RequestText("POST", "/admin/logits", R"({"input_ids": [[3, 4, 5], [6, 7, 8]]})", kAdmin));
  ASSERT_TRUE(cluster_.AwaitOpen(2));
  EXPECT_TRUE(cluster_.RequestOf(RequestId{1}).want_logits);
  EXPECT_EQ(cluster_.RequestOf(RequestId{1}).tokens_max, 0);
  cluster_.Step();
  const TestReply reply = client.ReadReply();
  ASSERT_EQ(reply.status, 200);
  EXPECT_THAT(reply.head, HasSubstr("application/octet-stream"));
  EXPECT_THAT(reply.body.substr(0, 128), HasSubstr("(2, 3, 4096)"));
  const size_t header = reply.body.size() - 2 * 3 * 4096 * sizeof(float);
  EXPECT_EQ(header % 64, 0u);
  for (int i = 0; i < 6; ++i) {
    float value = 0;
    std::memcpy(&value, reply.body.data() + header + (i * 4096 + 17) * sizeof(float),
                sizeof(value));
    EXPECT_EQ(value, 3.0f + i);
  }
}

TEST_F(ApiServerTest, AdminLogitsFailuresAndDisconnect) {
  EXPECT_EQ(Post("/admin/logits", R"({"input_ids": [[1], [1, 2]]})", kAdmin).status, 400);
  {
    TestClient client(server_->port());
    client.Send(RequestText("POST", "/admin/logits", R"({"input_ids": [[3], [4]]})", kAdmin));
    ASSERT_TRUE(cluster_.AwaitOpen(2));
    cluster_.Finish(cluster_.OpenIds()[0], FinishReason::kError, absl::UnavailableError("w0 lost"));
    EXPECT_EQ(client.ReadReply().status, 503);
    EXPECT_TRUE(cluster_.AwaitCancelled(1));
  }
  {
    // A row that ends without its logits is an error, not a file of zeros.
    TestClient client(server_->port());
    client.Send(RequestText("POST", "/admin/logits", R"({"input_ids": [[3]]})", kAdmin));
    ASSERT_TRUE(cluster_.AwaitOpen(1));
    cluster_.Finish(cluster_.OpenIds()[0], FinishReason::kLength, absl::OkStatus());
    EXPECT_EQ(client.ReadReply().status, 500);
  }
  TestClient client(server_->port());
  client.Send(RequestText("POST", "/admin/logits", R"({"input_ids": [[3], [4]]})", kAdmin));
  ASSERT_TRUE(cluster_.AwaitOpen(2));
  client.Close();
  EXPECT_TRUE(cluster_.AwaitCancelled(3));
}

TEST_F(ApiServerTest, WithoutTokenizer) {
  server_.reset();
  server_ = *ApiServer::Start(options_, cluster_, nullptr);
  EXPECT_EQ(Post("/v1/completions", R"({"prompt": "text"})").status, 400);
  const json::value answer = json::parse(Complete(R"({"prompt": [5], "max_tokens": 2})", 2).body);
  EXPECT_EQ(answer.at("choices").at(0).at("text"), "");
  const std::vector<int32_t> ids = Expected({5}, 2);
  EXPECT_EQ(answer.at("choices").at(0).at("token_ids"), json::array(ids.begin(), ids.end()));
}

TEST_F(ApiServerTest, SixtyFourStreamsDoNotMix) {
  constexpr int kStreams = 64;
  constexpr int kTokens = 50;
  std::vector<std::unique_ptr<TestClient>> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<TestClient>(server_->port()));
    clients.back()->Send(
        RequestText("POST", "/v1/completions",
                    absl::StrCat("{\"prompt\": [", i + 1, "], \"max_tokens\": ", kTokens,
                                 ", \"stream\": true, \"return_token_ids\": true}")));
  }
  ASSERT_TRUE(cluster_.AwaitOpen(kStreams));
  for (int step = 0; step < kTokens; ++step) cluster_.Step();
  for (int i = 0; i < kStreams; ++i) {
    const Streamed all = Join(clients[i]->ReadReply());
    EXPECT_EQ(all.ids, Expected({i + 1}, kTokens)) << i;
    EXPECT_EQ(all.text, tokenizer_->Decode(all.ids));
    EXPECT_TRUE(all.done);
  }
}

TEST_F(ApiServerTest, KeepAliveAndPipelining) {
  TestClient client(server_->port());
  const std::string get = RequestText("GET", "/v1/models");
  client.Send(get + get + RequestText("GET", "/health/live"));
  for (int i = 0; i < 2; ++i) EXPECT_EQ(json::parse(client.ReadReply().body).at("object"), "list");
  EXPECT_THAT(client.ReadReply().body, HasSubstr("live"));
  client.Send(RequestText("GET", "/v1/models", "", "Connection: close\r\n"));
  EXPECT_EQ(client.ReadReply().status, 200);
  EXPECT_TRUE(client.AwaitClose());
}

TEST_F(ApiServerTest, StopCancelsWhatIsOpen) {
  options_.http.limits.linger_max = absl::Milliseconds(100);
  Restart();
  TestClient client(server_->port());
  client.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1], "stream": true})"));
  ASSERT_TRUE(cluster_.AwaitOpen(1));
  cluster_.Step();
  server_->Stop();
  EXPECT_TRUE(cluster_.AwaitCancelled(1));
  EXPECT_TRUE(client.AwaitClose());
  server_.reset();
}

TEST_F(ApiServerTest, TheClusterMayOutliveTheServer) {
  options_.http.limits.linger_max = absl::Milliseconds(20);
  Restart();
  cluster_.SetSilent(false);
  std::shared_ptr<GenerationSink> kept;
  // A sink kept by the actor beyond the server takes tokens without effect.
  class Keeper : public FakeCluster {
   public:
    RequestId Submit(GenerationRequest, std::shared_ptr<GenerationSink> sink) override {
      absl::MutexLock lock(&mutex);
      sinks.push_back(std::move(sink));
      return RequestId{1};
    }
    absl::Mutex mutex;
    std::vector<std::shared_ptr<GenerationSink>> sinks ABSL_GUARDED_BY(mutex);
  } keeper;
  auto server = *ApiServer::Start(options_, keeper, tokenizer_.get());
  TestClient client(server->port());
  client.Send(RequestText("POST", "/v1/completions", R"({"prompt": [1]})"));
  {
    absl::MutexLock lock(&keeper.mutex);
    const auto has_sink = [&keeper] { return !keeper.sinks.empty(); };
    ASSERT_TRUE(keeper.mutex.AwaitWithTimeout(absl::Condition(&has_sink), absl::Seconds(10)));
    kept = keeper.sinks[0];
  }
  server.reset();
  kept->OnToken({.token = 5});
  kept->OnFinish(FinishReason::kStop, absl::OkStatus());
}

}  // namespace
}  // namespace conclave
