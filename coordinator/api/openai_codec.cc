#include "coordinator/api/openai_codec.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "boost/json.hpp"
#include "glog/logging.h"

namespace conclave {
namespace {

std::string StringOrNull(const std::string& text) {
  return text.empty() ? "null" : JsonString(text);
}

std::string UsageJson(TokenUsage usage) {
  return absl::StrCat("{\"prompt_tokens\":", usage.prompt_tokens,
                      ",\"completion_tokens\":", usage.completion_tokens,
                      ",\"total_tokens\":", usage.prompt_tokens + usage.completion_tokens, "}");
}

}  // namespace

std::string JsonString(absl::string_view text) {
  return boost::json::serialize(boost::json::string_view(text.data(), text.size()));
}

std::string ErrorJson(const ApiError& error) {
  return absl::StrCat(
      "{\"error\":{\"message\":", JsonString(error.message), ",\"type\":", JsonString(error.type),
      ",\"param\":", StringOrNull(error.param), ",\"code\":", StringOrNull(error.code), "}}");
}

ApiError ErrorFromStatus(const absl::Status& status) {
  const std::string message(status.message());
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kFailedPrecondition:
      return {400, message, "invalid_request_error", "", ""};
    case absl::StatusCode::kNotFound:
      return {404, message, "not_found_error", "", ""};
    case absl::StatusCode::kResourceExhausted:
      return {429, message, "rate_limit_error", "", "overloaded"};
    case absl::StatusCode::kUnimplemented:
      return {501, message, "invalid_request_error", "", "unsupported"};
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kAborted:
      return {503, message, "service_unavailable_error", "", "unavailable"};
    case absl::StatusCode::kDeadlineExceeded:
      return {504, message, "service_unavailable_error", "", "timeout"};
    default:
      return {500, message, "internal_error", "", ""};
  }
}

const char* FinishReasonName(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  LOG(FATAL) << "no such reason: " << static_cast<int>(reason);
}

CompletionWriter::CompletionWriter(absl::string_view id, absl::string_view model,
                                   int64_t created_unix_s, bool token_ids)
    : opening_(absl::StrCat("{\"id\":", JsonString(id),
                            ",\"object\":\"text_completion\",\"created\":", created_unix_s,
                            ",\"model\":", JsonString(model), ",\"choices\":[")),
      token_ids_(token_ids) {}

void CompletionWriter::AppendChoice(const CompletionPiece& piece, std::string* out) const {
  absl::StrAppend(out, "{\"index\":0,\"text\":", JsonString(piece.text));
  if (token_ids_)
    absl::StrAppend(out, ",\"token_ids\":[", absl::StrJoin(piece.token_ids, ","), "]");
  absl::StrAppend(out, ",\"logprobs\":null,\"finish_reason\":");
  if (piece.finish_reason == nullptr) {
    absl::StrAppend(out, "null}");
  } else {
    absl::StrAppend(out, "\"", piece.finish_reason, "\"}");
  }
}

std::string CompletionWriter::Whole(const CompletionPiece& piece, TokenUsage usage) const {
  std::string out = opening_;
  AppendChoice(piece, &out);
  absl::StrAppend(&out, "],\"usage\":", UsageJson(usage), "}");
  return out;
}

std::string CompletionWriter::Event(const CompletionPiece& piece) const {
  std::string out = "data: " + opening_;
  AppendChoice(piece, &out);
  absl::StrAppend(&out, "]}\n\n");
  return out;
}

std::string CompletionWriter::UsageEvent(TokenUsage usage) const {
  return absl::StrCat("data: ", opening_, "],\"usage\":", UsageJson(usage), "}\n\n");
}

std::string CompletionWriter::ErrorEvent(const ApiError& error) {
  return absl::StrCat("data: ", ErrorJson(error), "\n\n");
}

std::string CompletionWriter::DoneEvent() { return "data: [DONE]\n\n"; }

std::string ModelsJson(absl::string_view model, const ModelShape& shape, int64_t created_unix_s) {
  return absl::StrCat("{\"object\":\"list\",\"data\":[{\"id\":", JsonString(model),
                      ",\"object\":\"model\",\"created\":", created_unix_s,
                      ",\"owned_by\":\"conclave\",\"max_model_len\":", shape.context_tokens, "}]}");
}

}  // namespace conclave
