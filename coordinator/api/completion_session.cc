#include "coordinator/api/completion_session.h"

#include <utility>

#include "absl/time/clock.h"

namespace conclave {
namespace {

// Tokens that wait for the API thread, of one request. It takes them within milliseconds; more
// means it is stuck.
constexpr size_t kTokensWaitingMax = 8192;

std::vector<int32_t> SilentTokens(const ServingContext& context, const GenerationRequest& request) {
  std::vector<int32_t> silent = request.stop_token_ids;
  if (!request.ignore_eos) {
    silent.insert(silent.end(), context.shape.eos_token_ids.begin(),
                  context.shape.eos_token_ids.end());
  }
  return silent;
}

}  // namespace

HttpReply ErrorReply(const ApiError& error) {
  HttpReply reply = {.status = error.http, .body = ErrorJson(error)};
  if (error.http == 429 || error.http == 503) reply.fields.push_back({"Retry-After", "1"});
  if (error.http == 401) reply.fields.push_back({"WWW-Authenticate", "Bearer realm=\"conclave\""});
  return reply;
}

void CompletionSession::Start(const ServingContext& context, CompletionCall call,
                              const std::string& id, std::shared_ptr<HttpExchange> exchange) {
  GenerationRequest request = call.request;
  auto session =
      std::make_shared<CompletionSession>(context, std::move(call), id, std::move(exchange));
  session->Submit(std::move(request));
}

CompletionSession::CompletionSession(const ServingContext& context, CompletionCall call,
                                     const std::string& id, std::shared_ptr<HttpExchange> exchange)
    : service_(*context.service),
      stream_(call.stream),
      include_usage_(call.include_usage),
      return_token_ids_(call.return_token_ids),
      exchange_(std::move(exchange)),
      sink_(std::make_shared<RequestSink>(context.inbox, kTokensWaitingMax)),
      writer_(id, context.model, absl::ToUnixSeconds(absl::Now()), call.return_token_ids),
      decoder_(context.tokenizer, std::move(call.stops), SilentTokens(context, call.request)) {
  usage_.prompt_tokens = static_cast<int64_t>(call.request.prompt.size());
}

void CompletionSession::Submit(GenerationRequest request) {
  sink_->SetListener([self = shared_from_this()] { self->OnNews(); });
  exchange_->OnGone([self = shared_from_this()] {
    self->service_.Cancel(self->request_);
    self->Release();
  });
  request_ = service_.Submit(std::move(request), sink_);
}

void CompletionSession::OnNews() {
  if (exchange_ == nullptr) return;
  const RequestNews news = sink_->Take();
  AddTokens(news.tokens);
  if (decoder_.stopped()) {
    service_.Cancel(request_);
    return Succeed("stop");
  }
  if (news.overflowed) {
    service_.Cancel(request_);
    return Fail({.http = 503,
                 .message = "the server is too slow to send the tokens; retry with fewer streams",
                 .type = "service_unavailable_error",
                 .code = "overloaded"});
  }
  if (!news.finished) {
    if (stream_ && !ids_.empty()) SendPiece(nullptr);
    return;
  }
  switch (news.reason) {
    case FinishReason::kStop:
    case FinishReason::kLength:
      return Succeed(FinishReasonName(news.reason));
    case FinishReason::kError:
      return Fail(ErrorFromStatus(news.status));
    case FinishReason::kCancelled:
      return Fail(ErrorFromStatus(absl::CancelledError("the server cancelled the request; retry")));
  }
}

void CompletionSession::AddTokens(const std::vector<int32_t>& tokens) {
  for (int32_t token : tokens) {
    if (decoder_.stopped()) return;
    ids_.push_back(token);
    ++usage_.completion_tokens;
    text_ += decoder_.Push(token);
  }
}

void CompletionSession::SendPiece(const char* finish_reason) {
  // A piece that says nothing is not sent, but for the first, which shows that the prompt is done.
  const bool silent = begun_ && text_.empty() && !return_token_ids_ && finish_reason == nullptr;
  if (!begun_) exchange_->BeginStream("text/event-stream");
  begun_ = true;
  if (!silent) exchange_->Write(writer_.Event({text_, ids_, finish_reason}));
  text_.clear();
  ids_.clear();
}

void CompletionSession::Succeed(const char* finish_reason) {
  text_ += decoder_.Flush();
  if (!stream_) {
    exchange_->Reply({.body = writer_.Whole({text_, ids_, finish_reason}, usage_)});
    return Release();
  }
  SendPiece(finish_reason);
  // Write may have cut a client that does not read; the session is then released.
  if (exchange_ == nullptr) return;
  const std::string usage = include_usage_ ? writer_.UsageEvent(usage_) : "";
  exchange_->Write(usage + CompletionWriter::DoneEvent());
  if (exchange_ == nullptr) return;
  exchange_->EndStream(/*keep_alive=*/true);
  Release();
}

void CompletionSession::Fail(const ApiError& error) {
  if (!begun_) {
    exchange_->Reply(ErrorReply(error));
    return Release();
  }
  exchange_->Write(CompletionWriter::ErrorEvent(error));
  if (exchange_ == nullptr) return;
  exchange_->EndStream(/*keep_alive=*/false);
  Release();
}

void CompletionSession::Release() {
  // The order matters: the listener may hold the last reference to this.
  const std::shared_ptr<CompletionSession> alive = shared_from_this();
  exchange_ = nullptr;
  sink_->SetListener(nullptr);
}

}  // namespace conclave
