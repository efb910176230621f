// CompletionSession: one /v1/completions request from its submission to its last byte. It turns
// tokens into text, ends at stop strings, writes events or one answer, and cancels the generation
// when the client leaves. Lives on the API thread, kept alive by the listener of its sink.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/api/completion_text.h"
#include "coordinator/api/http_server.h"
#include "coordinator/api/openai_codec.h"
#include "coordinator/api/request_sink.h"
#include "coordinator/service/cluster_service.h"

namespace conclave {

// What every request of one server shares.
struct ServingContext {
  ClusterService* service = nullptr;
  const Tokenizer* tokenizer = nullptr;  // may be null
  ModelShape shape;
  std::string model;
  std::shared_ptr<SinkInbox> inbox;
};

// An answer that is no success; Retry-After and WWW-Authenticate included where the status wants
// them.
HttpReply ErrorReply(const ApiError& error);

class CompletionSession : public std::enable_shared_from_this<CompletionSession> {
 public:
  // Submits `call` and answers on `exchange`. `id` is the completion's name, "cmpl-...".
  static void Start(const ServingContext& context, CompletionCall call, const std::string& id,
                    std::shared_ptr<HttpExchange> exchange);

  CompletionSession(const ServingContext& context, CompletionCall call, const std::string& id,
                    std::shared_ptr<HttpExchange> exchange);

 private:
  void Submit(GenerationRequest request);
  void OnNews();
  // Adds tokens until a stop string; what they make is in text_ and ids_.
  void AddTokens(const std::vector<int32_t>& tokens);
  void SendPiece(const char* finish_reason);
  void Succeed(const char* finish_reason);
  void Fail(const ApiError& error);
  void Release();

  ClusterService& service_;
  const bool stream_;
  const bool include_usage_;
  const bool return_token_ids_;
  std::shared_ptr<HttpExchange> exchange_;  // null once answered or gone
  std::shared_ptr<RequestSink> sink_;
  CompletionWriter writer_;
  CompletionText decoder_;
  RequestId request_;
  TokenUsage usage_;
  std::string text_;          // not yet sent
  std::vector<int32_t> ids_;  // not yet sent
  bool begun_ = false;        // the stream
};

}  // namespace conclave
