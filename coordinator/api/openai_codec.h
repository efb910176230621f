// The JSON of the HTTP API: requests of OpenAI's /v1/completions and of the admin endpoints read
// into values, answers and errors written. Knows no sockets. Pure functions; any thread. Source:
// OpenAI's API reference; top_k, min_p, stop_token_ids, ignore_eos and return_token_ids as vLLM
// spells them.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "comm/types/model_shape.h"
#include "coordinator/service/cluster_service.h"
#include "coordinator/tokenizer/tokenizer.h"

namespace conclave {

struct ApiError {
  int http = 400;
  std::string message;  // names field, value and remedy
  std::string type = "invalid_request_error";
  std::string param;  // the field; empty: null
  std::string code;   // empty: null
};

// {"error": {"message", "type", "param", "code"}}
std::string ErrorJson(const ApiError& error);

// InvalidArgument 400, ResourceExhausted 429, Unavailable 503, DeadlineExceeded 504, ...
ApiError ErrorFromStatus(const absl::Status& status);

// What a request is checked against.
struct CompletionContext {
  const Tokenizer* tokenizer = nullptr;  // null: prompts are token ids, answers have no text
  const ModelShape* shape = nullptr;
  std::string model;  // the name served
  uint64_t seed_if_missing = 0;
};

struct CompletionCall {
  GenerationRequest request;
  std::vector<std::string> stops;
  bool stream = false;
  bool include_usage = false;  // stream_options.include_usage
  bool return_token_ids = false;
};

// The body of POST /v1/completions. Unknown fields are ignored; known ones that are not supported
// are refused.
std::variant<CompletionCall, ApiError> ParseCompletion(absl::string_view body,
                                                       const CompletionContext& context);

// The body of POST /admin/logits: {"input_ids": [[...], ...]}, rows of one length. The answer may
// have at most 256 MiB.
constexpr int64_t kLogitsBytesMax = int64_t{256} << 20;
using TokenRows = std::vector<std::vector<int32_t>>;
std::variant<TokenRows, ApiError> ParseLogits(absl::string_view body, const ModelShape& shape);

struct TokenUsage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
};

// One piece of a completion. finish_reason null: more follows.
struct CompletionPiece {
  absl::string_view text;
  absl::Span<const int32_t> token_ids;
  const char* finish_reason = nullptr;
};

// "stop" or "length".
const char* FinishReasonName(FinishReason reason);

// Writes the answers of one completion.
class CompletionWriter {
 public:
  CompletionWriter(absl::string_view id, absl::string_view model, int64_t created_unix_s,
                   bool token_ids);

  // The whole answer of a request that does not stream.
  std::string Whole(const CompletionPiece& piece, TokenUsage usage) const;
  // Server-sent events: "data: {...}\n\n".
  std::string Event(const CompletionPiece& piece) const;
  std::string UsageEvent(TokenUsage usage) const;
  static std::string ErrorEvent(const ApiError& error);
  static std::string DoneEvent();

 private:
  void AppendChoice(const CompletionPiece& piece, std::string* out) const;

  std::string opening_;  // {"id": ..., "object": ..., "created": ..., "model": ...
  bool token_ids_;
};

// GET /v1/models.
std::string ModelsJson(absl::string_view model, const ModelShape& shape, int64_t created_unix_s);

// `text` as a JSON string, quotes included.
std::string JsonString(absl::string_view text);

}  // namespace conclave
