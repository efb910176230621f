// LogitsJob: one POST /admin/logits. It submits a prefill for each row, lets the actor copy the
// logits into the body of the answer, and sends that when the last row is done. Lives on the API
// thread, kept alive by the listeners of its rows.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "coordinator/api/completion_session.h"

namespace conclave {

class LogitsJob : public std::enable_shared_from_this<LogitsJob> {
 public:
  // `rows`: at least one, all of one length (ParseLogits). Answers application/octet-stream: a .npy
  // file of float32, [rows, tokens, vocab].
  static void Start(const ServingContext& context, TokenRows rows,
                    std::shared_ptr<HttpExchange> exchange);

  // The answer's body, shared with the sinks: each row is written by the actor before it reports
  // the row's end, and read by the API thread after that.
  struct Body {
    std::string bytes;  // header and values
    size_t header_bytes = 0;
    int64_t row_values = 0;  // tokens * vocab
    int32_t vocab = 0;
  };

  LogitsJob(ClusterService& service, std::shared_ptr<HttpExchange> exchange)
      : service_(service), exchange_(std::move(exchange)) {}

 private:
  struct Row {
    RequestId request;
    std::shared_ptr<RequestSink> sink;
    bool finished = false;
  };

  void OnRowNews(size_t row);
  void Fail(const ApiError& error);
  void Release();

  ClusterService& service_;
  std::shared_ptr<HttpExchange> exchange_;  // null once answered or gone
  std::shared_ptr<Body> body_;
  std::vector<Row> rows_;
  size_t rows_left_ = 0;
};

}  // namespace conclave
