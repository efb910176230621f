// What real processes do when things break: workers killed or stopped in mid-stream, signals,
// clients that leave.

#include <signal.h>

#include <atomic>
#include <boost/json.hpp>
#include <cstdlib>
#include <functional>
#include <future>
#include <string>
#include <thread>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/integration/real_cluster.h"
#include "tools/cli/subprocess.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr absl::Duration kDetection = absl::Milliseconds(1500);

// A long greedy stream that runs `at_token` once, on the stream's thread, when its third token has
// come.
absl::StatusOr<Completion> StreamWith(const HttpClient& client, int tokens,
                                      const std::function<void()>& at_token) {
  CompletionOptions options;
  options.prompt = "It is a truth universally acknowledged";
  options.tokens_max = tokens;
  options.temperature = 0;
  options.ignore_eos = true;
  int pieces = 0;
  return Complete(client, options, [&](absl::string_view) {
    if (++pieces == 3) at_token();
  });
}

// Polls /health until `good` holds of its code, at most `timeout`.
bool AwaitHealth(const LocalCluster& cluster, const std::function<bool(int)>& good,
                 absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    const absl::StatusOr<HttpResponse> health = cluster.Client(false).Get("/health");
    if (health.ok() && good(health->code)) return true;
  }
  return false;
}

boost::json::object AdminStatus(const LocalCluster& cluster) {
  const absl::StatusOr<HttpResponse> response = cluster.Client(true).Get("/admin/status");
  EXPECT_TRUE(response.ok() && response->code == 200);
  return boost::json::parse(response->body).as_object();
}

void ExpectErrorNamesWorker(int signal) {
  const auto cluster = StartCluster("tp=2,dp=2");
  absl::Time fault;
  const absl::StatusOr<Completion> completion = StreamWith(cluster->Client(false), 1500, [&] {
    fault = absl::Now();
    cluster->worker(1).Signal(signal);
  });
  const absl::Duration took = absl::Now() - fault;
  ASSERT_FALSE(completion.ok()) << "the text ended although a worker was lost";
  EXPECT_THAT(std::string(completion.status().message()), HasSubstr("w1"));
  EXPECT_LT(took, kDetection);
  // The cluster is up: it answers, says why it does not serve, and stops in good order.
  const absl::StatusOr<HttpResponse> health = cluster->Client(false).Get("/health");
  ASSERT_TRUE(health.ok()) << health.status().message();
  EXPECT_EQ(health->code, 503);
  if (signal == SIGSTOP) {
    cluster->worker(1).Signal(SIGCONT);
    EXPECT_TRUE(AwaitHealth(
        *cluster, [](int code) { return code == 200; }, absl::Seconds(10)))
        << "the cluster did not take the returned worker back";
    EXPECT_TRUE(StreamWith(cluster->Client(false), 8, [] {}).ok());
  }
}

TEST(FaultTest, KilledWorkerInMidStreamIsNamed) { ExpectErrorNamesWorker(SIGKILL); }

TEST(FaultTest, StoppedWorkerInMidStreamIsNamedAndComesBack) { ExpectErrorNamesWorker(SIGSTOP); }

TEST(FaultTest, SigtermDrains) {
  const auto cluster = StartCluster("tp=2,dp=2");
  const absl::StatusOr<Completion> completion =
      StreamWith(cluster->Client(false), 200, [&] { cluster->coordinator().Signal(SIGTERM); });
  ASSERT_TRUE(completion.ok()) << completion.status().message();
  EXPECT_EQ(completion->token_ids.size(), 200u);
  const absl::Status stopped = cluster->Stop();
  EXPECT_TRUE(stopped.ok()) << stopped.message();
}

TEST(FaultTest, AClientThatLeavesCancelsItsRequest) {
  const auto cluster = StartCluster("tp=2,dp=2");
  std::atomic<bool> cancelled{false};
  HttpClient::Options options;
  options.base_url = cluster->url();
  options.cancelled = &cancelled;
  const absl::StatusOr<Completion> completion =
      StreamWith(HttpClient(options), 1800, [&] { cancelled = true; });
  EXPECT_EQ(completion.status().code(), absl::StatusCode::kCancelled);
  // Within one step (a few milliseconds) the server has let go of it; 500 ms bound a busy machine.
  const absl::Time deadline = absl::Now() + absl::Milliseconds(500);
  int64_t running = 1;
  while (running != 0 && absl::Now() < deadline) {
    running = AdminStatus(*cluster).at("requests_running").as_int64();
  }
  EXPECT_EQ(running, 0);
  EXPECT_LT(AdminStatus(*cluster).at("generated_tokens").as_int64(), 1000);
  const absl::Status stopped = cluster->Stop();
  EXPECT_TRUE(stopped.ok()) << stopped.message();
}

// Polls the cluster until `count` requests run, at most `timeout`.
bool AwaitRunning(const LocalCluster& cluster, int64_t count, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (absl::Now() < deadline) {
    if (AdminStatus(cluster).at("requests_running").as_int64() == count) return true;
  }
  return false;
}

TEST(FaultTest, CtrlCInTheClientCancelsOnTheServer) {
  const auto cluster = StartCluster("tp=2,dp=2");
  const std::string log = absl::StrCat(getenv("TEST_TMPDIR"), "/client.log");
  absl::StatusOr<Subprocess> client =
      Subprocess::Start({{ConclaveBinary(), "generate", "--url", cluster->url(), "--prompt",
                          "In the beginning", "--max-tokens", "1900", "--ignore-eos"},
                         log,
                         -1,
                         true});
  ASSERT_TRUE(client.ok()) << client.status().message();
  ASSERT_TRUE(AwaitRunning(*cluster, 1, absl::Seconds(10)));
  client->Signal(SIGINT);
  EXPECT_EQ(client->WaitOrKill(absl::Seconds(5)), "exit 130");
  EXPECT_TRUE(AwaitRunning(*cluster, 0, absl::Milliseconds(500)));
  EXPECT_LT(AdminStatus(*cluster).at("generated_tokens").as_int64(), 1900);
  EXPECT_TRUE(cluster->Stop().ok());
}

}  // namespace
}  // namespace conclave
