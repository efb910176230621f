#include "coordinator/api/logits_job.h"

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "coordinator/api/npy.h"

namespace conclave {
namespace {

// Copies one row's logits on the actor's thread; that they are complete is told with the row's end.
class RowSink : public RequestSink {
 public:
  RowSink(std::shared_ptr<SinkInbox> inbox, std::shared_ptr<LogitsJob::Body> body, size_t row)
      : RequestSink(std::move(inbox), /*tokens_max=*/16), body_(std::move(body)), row_(row) {}

  void OnLogits(int32_t position, int32_t vocab, absl::Span<const float> values) override {
    const int64_t first = static_cast<int64_t>(position) * vocab;
    const int64_t count = static_cast<int64_t>(values.size());
    if (vocab != body_->vocab || position < 0 || first + count > body_->row_values) {
      misfit_ = true;
      return;
    }
    char* row =
        body_->bytes.data() + body_->header_bytes + row_ * body_->row_values * sizeof(float);
    std::memcpy(row + first * sizeof(float), values.data(), values.size() * sizeof(float));
    values_seen_ += count;
  }

  void OnFinish(FinishReason reason, const absl::Status& status) override {
    const bool complete = !misfit_ && values_seen_ == body_->row_values;
    if (reason != FinishReason::kError && reason != FinishReason::kCancelled && !complete) {
      return RequestSink::OnFinish(FinishReason::kError,
                                   absl::InternalError(absl::StrCat(
                                       "row ", row_, " got ", values_seen_, " logits of ",
                                       body_->row_values, "; retry, and report this if it lasts")));
    }
    RequestSink::OnFinish(reason, status);
  }

 private:
  const std::shared_ptr<LogitsJob::Body> body_;
  const size_t row_;
  int64_t values_seen_ = 0;  // the actor's thread only, as is misfit_
  bool misfit_ = false;
};

}  // namespace

void LogitsJob::Start(const ServingContext& context, TokenRows rows,
                      std::shared_ptr<HttpExchange> exchange) {
  const auto job = std::make_shared<LogitsJob>(*context.service, std::move(exchange));
  const auto body = std::make_shared<Body>();
  const auto batch = static_cast<int64_t>(rows.size());
  const auto tokens = static_cast<int64_t>(rows[0].size());
  body->vocab = context.shape.vocab;
  body->row_values = tokens * body->vocab;
  body->bytes = NpyFloatHeader({batch, tokens, body->vocab});
  body->header_bytes = body->bytes.size();
  body->bytes.resize(body->header_bytes + batch * body->row_values * sizeof(float));
  job->body_ = body;
  job->rows_.resize(rows.size());
  job->rows_left_ = rows.size();
  job->exchange_->OnGone([job] { job->Release(); });
  for (size_t i = 0; i < rows.size(); ++i) {
    Row& row = job->rows_[i];
    row.sink = std::make_shared<RowSink>(context.inbox, body, i);
    row.sink->SetListener([job, i] { job->OnRowNews(i); });
    GenerationRequest request;
    request.prompt = std::move(rows[i]);
    request.tokens_max = 0;
    request.want_logits = true;
    request.ignore_eos = true;
    request.sampling.temperature = 0;
    row.request = context.service->Submit(std::move(request), row.sink);
  }
}

void LogitsJob::OnRowNews(size_t i) {
  if (exchange_ == nullptr || rows_[i].finished) return;
  const RequestNews news = rows_[i].sink->Take();
  if (!news.finished) return;
  rows_[i].finished = true;
  if (news.reason == FinishReason::kError) return Fail(ErrorFromStatus(news.status));
  if (news.reason == FinishReason::kCancelled) {
    return Fail(ErrorFromStatus(absl::CancelledError("the server cancelled the request; retry")));
  }
  if (--rows_left_ > 0) return;
  exchange_->Reply({.content_type = "application/octet-stream", .body = std::move(body_->bytes)});
  Release();
}

void LogitsJob::Fail(const ApiError& error) {
  exchange_->Reply(ErrorReply(error));
  Release();
}

void LogitsJob::Release() {
  const std::shared_ptr<LogitsJob> alive = shared_from_this();
  exchange_ = nullptr;
  for (Row& row : rows_) {
    if (row.sink == nullptr) continue;
    row.sink->SetListener(nullptr);
    if (!row.finished) service_.Cancel(row.request);
  }
}

}  // namespace conclave
