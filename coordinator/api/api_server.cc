#include "coordinator/api/api_server.h"

#include <utility>
#include <variant>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "comm/base/rng.h"
#include "comm/base/status.h"
#include "coordinator/api/completion_session.h"
#include "coordinator/api/logits_job.h"
#include "coordinator/api/openai_codec.h"
#include "coordinator/api/request_sink.h"
#include "coordinator/api/status_codec.h"

namespace conclave {
namespace {

using ExchangePtr = std::shared_ptr<HttpExchange>;

// An answer of the actor that is awaited for so long only. The exchange is held weakly: the actor
// may keep the callback beyond the server's life.
struct PendingStatus {
  explicit PendingStatus(const ExchangePtr& exchange) : exchange(exchange) {}
  std::weak_ptr<HttpExchange> exchange;
  bool answered = false;  // API thread only

  // Once; later calls do nothing.
  void Reply(HttpReply reply) {
    if (std::exchange(answered, true)) return;
    if (const ExchangePtr open = exchange.lock()) open->Reply(std::move(reply));
  }
};

// "failure" tells those who start a cluster that waiting longer will not help.
HttpReply HealthReply(ClusterState state, const std::string& waiting_for,
                      const absl::Status& failure) {
  const std::string fields = absl::StrCat("\"status\":", JsonString(ClusterStateName(state)));
  if (state == ClusterState::kServing) return {.body = absl::StrCat("{", fields, "}")};
  const std::string failed =
      failure.ok() ? "" : absl::StrCat(",\"failure\":", JsonString(std::string(failure.message())));
  return {.status = 503,
          .body = absl::StrCat("{", fields, ",\"reason\":", JsonString(waiting_for), failed, "}"),
          .fields = {{"Retry-After", "1"}}};
}

void ReplyError(const ExchangePtr& exchange, int http, const std::string& message,
                const std::string& code) {
  exchange->Reply(ErrorReply({.http = http, .message = message, .code = code}));
}

class ApiServerImpl : public ApiServer {
 public:
  ApiServerImpl(const ApiOptions& options, ClusterService& service, const Tokenizer* tokenizer,
                std::unique_ptr<HttpServer> server)
      : options_(options),
        random_(options.random_seed),
        started_unix_s_(absl::ToUnixSeconds(absl::Now())),
        server_(std::move(server)),
        loop_(server_->loop()) {
    context_.service = &service;
    context_.tokenizer = tokenizer;
    context_.shape = options.shape;
    context_.model = options.model;
    // Sinks hold the inbox and may outlive this server; the loop drops what is posted after its
    // end.
    context_.inbox = std::make_shared<SinkInbox>([this_loop = loop_, self = this] {
      this_loop->Post([self] { self->context_.inbox->Drain(); });
    });
    server_->Serve([this](ExchangePtr exchange) { Route(exchange); });
  }
  ~ApiServerImpl() override { Stop(); }

  int port() const override { return server_->port(); }

  void Stop() override {
    server_->Stop();
    context_.inbox->Close();
  }

 private:
  void Route(const ExchangePtr& exchange);
  void RouteAdmin(const ExchangePtr& exchange);
  void Health(const ExchangePtr& exchange);
  void Status(const ExchangePtr& exchange);
  void Experts(const ExchangePtr& exchange);
  void Complete(const ExchangePtr& exchange);
  void Logits(const ExchangePtr& exchange);
  std::shared_ptr<PendingStatus> AwaitStatus(const ExchangePtr& exchange);

  const ApiOptions options_;
  ServingContext context_;
  Rng random_;  // the server's thread only
  const int64_t started_unix_s_;
  const std::unique_ptr<HttpServer> server_;
  const std::shared_ptr<HttpLoop> loop_;
};

// Answers 405 and says false when the method is another.
bool AllowMethod(const ExchangePtr& exchange, const char* method) {
  const RequestHead& head = exchange->request().head;
  if (head.method == method) return true;
  HttpReply reply =
      ErrorReply({.http = 405,
                  .message = absl::StrCat("method ", head.method, " does not apply to ", head.path,
                                          "; use ", method)});
  reply.fields.push_back({"Allow", method});
  exchange->Reply(std::move(reply));
  return false;
}

void ApiServerImpl::Route(const ExchangePtr& exchange) {
  const std::string& path = exchange->request().head.path;
  if (absl::StartsWith(path, "/admin/")) return RouteAdmin(exchange);
  if (path == "/health") {
    if (AllowMethod(exchange, "GET")) Health(exchange);
  } else if (path == "/health/live") {
    if (AllowMethod(exchange, "GET")) exchange->Reply({.body = "{\"status\":\"live\"}"});
  } else if (path == "/v1/models") {
    if (!AllowMethod(exchange, "GET")) return;
    exchange->Reply({.body = ModelsJson(options_.model, options_.shape, started_unix_s_)});
  } else if (path == "/v1/completions") {
    if (AllowMethod(exchange, "POST")) Complete(exchange);
  } else {
    ReplyError(
        exchange, 404,
        absl::StrCat("no such path: ", path, "; there are /health, /v1/models, /v1/completions"),
        "not_found");
  }
}

void ApiServerImpl::RouteAdmin(const ExchangePtr& exchange) {
  const RequestHead& head = exchange->request().head;
  // Before anything else is said about what exists here.
  if (!BearerMatches(head.authorization, options_.admin_token)) {
    return ReplyError(exchange, 401, "send 'Authorization: Bearer TOKEN' with the admin token",
                      "unauthorized");
  }
  if (head.path == "/admin/status") {
    if (AllowMethod(exchange, "GET")) Status(exchange);
  } else if (head.path == "/admin/experts") {
    if (AllowMethod(exchange, "GET")) Experts(exchange);
  } else if (head.path == "/admin/logits") {
    if (AllowMethod(exchange, "POST")) Logits(exchange);
  } else if (head.path == "/admin/drain") {
    if (!AllowMethod(exchange, "POST")) return;
    context_.service->Drain();
    exchange->Reply({.body = "{\"draining\":true}"});
  } else {
    ReplyError(
        exchange, 404,
        absl::StrCat("no such path: ", head.path,
                     "; there are /admin/status, /admin/experts, /admin/logits, /admin/drain"),
        "not_found");
  }
}

std::shared_ptr<PendingStatus> ApiServerImpl::AwaitStatus(const ExchangePtr& exchange) {
  auto pending = std::make_shared<PendingStatus>(exchange);
  loop_->PostAfter(options_.status_max, [pending] {
    pending->Reply(ErrorReply(ErrorFromStatus(
        absl::UnavailableError("the coordinator's actor does not answer; look at its log"))));
  });
  return pending;
}

void ApiServerImpl::Health(const ExchangePtr& exchange) {
  context_.service->GetStatus(
      [loop = loop_, pending = AwaitStatus(exchange)](const ClusterStatus& status) {
        loop->Post([pending, state = status.state, waiting_for = status.waiting_for,
                    failure = status.last_failure] {
          pending->Reply(HealthReply(state, waiting_for, failure));
        });
      });
}

void ApiServerImpl::Status(const ExchangePtr& exchange) {
  context_.service->GetStatus(
      [loop = loop_, pending = AwaitStatus(exchange)](const ClusterStatus& status) {
        // Copied here, written as JSON there: the actor does not wait for text.
        loop->Post([pending, copy = status] { pending->Reply({.body = ClusterStatusJson(copy)}); });
      });
}

void ApiServerImpl::Experts(const ExchangePtr& exchange) {
  context_.service->GetExpertLoads([loop = loop_, pending = AwaitStatus(exchange),
                                    model = options_.model](const LoadProfile& loads) {
    loop->Post(
        [pending, model, copy = loads] { pending->Reply({.body = ExpertLoadsJson(model, copy)}); });
  });
}

void ApiServerImpl::Complete(const ExchangePtr& exchange) {
  const CompletionContext context = {.tokenizer = context_.tokenizer,
                                     .shape = &context_.shape,
                                     .model = context_.model,
                                     .seed_if_missing = random_.Next()};
  const std::string id = absl::StrFormat("cmpl-%016x", random_.Next());
  std::variant<CompletionCall, ApiError> call = ParseCompletion(exchange->request().body, context);
  if (const ApiError* error = std::get_if<ApiError>(&call)) {
    return exchange->Reply(ErrorReply(*error));
  }
  CompletionSession::Start(context_, std::get<CompletionCall>(std::move(call)), id, exchange);
}

void ApiServerImpl::Logits(const ExchangePtr& exchange) {
  std::variant<TokenRows, ApiError> rows = ParseLogits(exchange->request().body, context_.shape);
  if (const ApiError* error = std::get_if<ApiError>(&rows)) {
    return exchange->Reply(ErrorReply(*error));
  }
  LogitsJob::Start(context_, std::get<TokenRows>(std::move(rows)), exchange);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ApiServer>> ApiServer::Start(const ApiOptions& options,
                                                            ClusterService& service,
                                                            const Tokenizer* tokenizer) {
  ASSIGN_OR_RETURN(std::unique_ptr<HttpServer> server, HttpServer::Listen(options.http));
  return std::make_unique<ApiServerImpl>(options, service, tokenizer, std::move(server));
}

}  // namespace conclave
