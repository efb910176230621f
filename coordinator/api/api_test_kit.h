// What the tests of the API share: a ClusterService whose steps the test makes, and a client that
// sends raw bytes over a loopback socket. Every wait ends after some seconds. Tests only.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/api/api_server.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

// Thread-safe. The thread that calls Step, Token and Finish plays the actor.
class FakeCluster : public ClusterService {
 public:
  RequestId Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) override;
  void Cancel(RequestId id) override;
  void GetStatus(std::function<void(const ClusterStatus&)> done) override;
  void GetExpertLoads(std::function<void(const LoadProfile&)> done) override;  // kExpertCounts
  void Drain() override;

  // Of layer 1's experts; layer 0 is dense.
  static constexpr double kExpertCounts[2] = {2.5, 7};

  // One token for every request, NextToken of its prompt and position; kLength, and logits, at its
  // end.
  void Step();
  static int32_t NextToken(const GenerationRequest& request, int index);
  void Token(RequestId id, int32_t token);
  void Finish(RequestId id, FinishReason reason, const absl::Status& status);

  // Waits until `count` requests are open (or were cancelled in all); false after 10 s.
  bool AwaitOpen(size_t count);
  bool AwaitCancelled(size_t count);
  std::vector<RequestId> OpenIds();
  GenerationRequest RequestOf(RequestId id);
  size_t open();
  bool drained();

  void SetState(ClusterState state, const std::string& waiting_for);
  void SetSilent(bool silent);                  // GetStatus never answers
  void RefuseSubmits(const absl::Status& why);  // OnFinish(kError) from within Submit

 private:
  struct Open {
    GenerationRequest request;
    std::shared_ptr<GenerationSink> sink;
    int tokens = 0;
  };
  std::shared_ptr<GenerationSink> Remove(RequestId id);

  absl::Mutex mutex_;
  std::map<RequestId, Open> open_ ABSL_GUARDED_BY(mutex_);
  uint64_t last_id_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t cancelled_ ABSL_GUARDED_BY(mutex_) = 0;
  bool drained_ ABSL_GUARDED_BY(mutex_) = false;
  bool silent_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status refusal_ ABSL_GUARDED_BY(mutex_);
  ClusterStatus status_ ABSL_GUARDED_BY(mutex_);
};

struct TestReply {
  int status = 0;
  std::string head;
  std::string body;  // chunks joined
};

// One connection. A read that gets nothing for 10 s counts as the end.
class TestClient {
 public:
  explicit TestClient(int port, int receive_buffer_bytes = 0);
  ~TestClient();
  TestClient(const TestClient&) = delete;
  TestClient& operator=(const TestClient&) = delete;

  void Send(absl::string_view bytes);
  // Reads until `end` was seen; everything read and not yet taken up to and including it. "" at the
  // end of the stream.
  std::string ReadUntil(absl::string_view end);
  TestReply ReadReply();
  // True when the server closes within 10 s (what it still sends is dropped).
  bool AwaitClose();
  void Close();

 private:
  bool Fill();
  int fd_;
  std::string read_;
};

// "METHOD path HTTP/1.1" with Host, Content-Length and these further lines.
std::string RequestText(absl::string_view method, absl::string_view path,
                        absl::string_view body = "", absl::string_view lines = "");

// One request on a connection of its own.
TestReply Ask(int port, absl::string_view request);

// The payloads of a stream's events.
std::vector<std::string> EventsOf(absl::string_view body);

}  // namespace conclave
