#include "coordinator/api/api_test_kit.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr absl::Duration kWaitMax = absl::Seconds(10);

}  // namespace

RequestId FakeCluster::Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) {
  absl::Status refusal;
  RequestId id;
  {
    absl::MutexLock lock(&mutex_);
    id = RequestId{++last_id_};
    refusal = refusal_;
    if (refusal.ok()) open_[id] = Open{std::move(request), sink};
  }
  if (!refusal.ok()) sink->OnFinish(FinishReason::kError, refusal);
  return id;
}

std::shared_ptr<GenerationSink> FakeCluster::Remove(RequestId id) {
  absl::MutexLock lock(&mutex_);
  const auto node = open_.extract(id);
  return node.empty() ? nullptr : node.mapped().sink;
}

void FakeCluster::Cancel(RequestId id) {
  const std::shared_ptr<GenerationSink> sink = Remove(id);
  if (sink == nullptr) return;
  {
    absl::MutexLock lock(&mutex_);
    ++cancelled_;
  }
  sink->OnFinish(FinishReason::kCancelled, absl::OkStatus());
}

void FakeCluster::GetExpertLoads(std::function<void(const LoadProfile&)> done) {
  LoadProfile loads(2, 2);
  for (int expert = 0; expert < 2; ++expert) loads.Add(1, expert, kExpertCounts[expert]);
  done(loads);
}

void FakeCluster::GetStatus(std::function<void(const ClusterStatus&)> done) {
  ClusterStatus status;
  {
    absl::MutexLock lock(&mutex_);
    if (silent_) return;
    status = status_;
    status.requests_running = static_cast<int>(open_.size());
  }
  done(status);
}

void FakeCluster::Drain() {
  absl::MutexLock lock(&mutex_);
  drained_ = true;
}

int32_t FakeCluster::NextToken(const GenerationRequest& request, int index) {
  uint32_t hash = 2166136261u + static_cast<uint32_t>(index);
  for (int32_t token : request.prompt) hash = (hash ^ static_cast<uint32_t>(token)) * 16777619u;
  return static_cast<int32_t>(300 + hash % 3000);
}

void FakeCluster::Step() {
  std::map<RequestId, Open> all;
  {
    absl::MutexLock lock(&mutex_);
    for (auto& [id, open] : open_) {
      all[id] = open;
      ++open.tokens;
    }
  }
  for (const auto& [id, open] : all) {
    if (open.request.want_logits) {
      constexpr int kVocab = 4096;
      const auto n = static_cast<int>(open.request.prompt.size());
      for (int position = 0; position < n; ++position) {
        const std::vector<float> row(kVocab, static_cast<float>(open.request.prompt[position]));
        open.sink->OnLogits(position, kVocab, row);
      }
      Finish(id, FinishReason::kLength, absl::OkStatus());
      continue;
    }
    Token(id, NextToken(open.request, open.tokens));
    if (open.tokens + 1 == open.request.tokens_max) {
      Finish(id, FinishReason::kLength, absl::OkStatus());
    }
  }
}

void FakeCluster::Token(RequestId id, int32_t token) {
  std::shared_ptr<GenerationSink> sink;
  {
    absl::MutexLock lock(&mutex_);
    const auto it = open_.find(id);
    if (it == open_.end()) return;
    sink = it->second.sink;
  }
  sink->OnToken({.request = id, .token = token});
}

void FakeCluster::Finish(RequestId id, FinishReason reason, const absl::Status& status) {
  if (const std::shared_ptr<GenerationSink> sink = Remove(id)) sink->OnFinish(reason, status);
}

bool FakeCluster::AwaitOpen(size_t count) {
  absl::MutexLock lock(&mutex_);
  const auto enough = [this, count]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return open_.size() >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), kWaitMax);
}

bool FakeCluster::AwaitCancelled(size_t count) {
  absl::MutexLock lock(&mutex_);
  const auto enough = [this, count]()
                          ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return cancelled_ >= count; };
  return mutex_.AwaitWithTimeout(absl::Condition(&enough), kWaitMax);
}

std::vector<RequestId> FakeCluster::OpenIds() {
  absl::MutexLock lock(&mutex_);
  std::vector<RequestId> ids;
  for (const auto& [id, open] : open_) ids.push_back(id);
  return ids;
}

GenerationRequest FakeCluster::RequestOf(RequestId id) {
  absl::MutexLock lock(&mutex_);
  return open_.at(id).request;
}

size_t FakeCluster::open() {
  absl::MutexLock lock(&mutex_);
  return open_.size();
}

bool FakeCluster::drained() {
  absl::MutexLock lock(&mutex_);
  return drained_;
}

void FakeCluster::SetState(ClusterState state, const std::string& waiting_for) {
  absl::MutexLock lock(&mutex_);
  status_.state = state;
  status_.waiting_for = waiting_for;
}

void FakeCluster::SetSilent(bool silent) {
  absl::MutexLock lock(&mutex_);
  silent_ = silent;
}

void FakeCluster::RefuseSubmits(const absl::Status& why) {
  absl::MutexLock lock(&mutex_);
  refusal_ = why;
}

TestClient::TestClient(int port, int receive_buffer_bytes) : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
  CHECK_GE(fd_, 0);
  if (receive_buffer_bytes > 0) {
    setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &receive_buffer_bytes, sizeof(receive_buffer_bytes));
  }
  const timeval timeout = absl::ToTimeval(kWaitMax);
  setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  PCHECK(connect(fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address)) == 0);
}

TestClient::~TestClient() { Close(); }

void TestClient::Close() {
  if (fd_ >= 0) close(fd_);
  fd_ = -1;
}

void TestClient::Send(absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return;  // the server closed: the reply says why
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
}

bool TestClient::Fill() {
  char buffer[64 << 10];
  const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
  if (got <= 0) return false;
  read_.append(buffer, static_cast<size_t>(got));
  return true;
}

std::string TestClient::ReadUntil(absl::string_view end) {
  size_t at;
  while ((at = read_.find(std::string(end))) == std::string::npos) {
    if (!Fill()) return "";
  }
  const std::string taken = read_.substr(0, at + end.size());
  read_.erase(0, taken.size());
  return taken;
}

TestReply TestClient::ReadReply() {
  TestReply reply;
  reply.head = ReadUntil("\r\n\r\n");
  if (reply.head.size() > 12) reply.status = std::atoi(reply.head.c_str() + 9);
  if (absl::StrContains(reply.head, "Transfer-Encoding: chunked")) {
    for (;;) {
      const std::string line = ReadUntil("\r\n");
      const size_t size = std::strtoul(line.c_str(), nullptr, 16);
      while (read_.size() < size + 2 && Fill()) {
      }
      reply.body += read_.substr(0, size);
      read_.erase(0, size + 2);
      if (size == 0 || line.empty()) return reply;
    }
  }
  const size_t at = reply.head.find("Content-Length: ");
  const size_t size =
      at == std::string::npos ? 0 : std::strtoul(reply.head.c_str() + at + 16, nullptr, 10);
  while (read_.size() < size && Fill()) {
  }
  reply.body = read_.substr(0, size);
  read_.erase(0, size);
  return reply;
}

bool TestClient::AwaitClose() {
  char buffer[64 << 10];
  for (;;) {
    const ssize_t got = recv(fd_, buffer, sizeof(buffer), 0);
    if (got == 0 || (got < 0 && errno == ECONNRESET)) return true;
    if (got < 0) return false;
  }
}

std::string RequestText(absl::string_view method, absl::string_view path, absl::string_view body,
                        absl::string_view lines) {
  return absl::StrCat(method, " ", path,
                      " HTTP/1.1\r\nHost: localhost\r\nContent-Length: ", body.size(), "\r\n",
                      lines, "\r\n", body);
}

TestReply Ask(int port, absl::string_view request) {
  TestClient client(port);
  client.Send(request);
  return client.ReadReply();
}

std::vector<std::string> EventsOf(absl::string_view body) {
  std::vector<std::string> events;
  for (absl::string_view event : absl::StrSplit(body, "\n\n", absl::SkipEmpty())) {
    CHECK(absl::ConsumePrefix(&event, "data: ")) << event;
    events.emplace_back(event);
  }
  return events;
}

}  // namespace conclave
