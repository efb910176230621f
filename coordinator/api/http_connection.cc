#include "coordinator/api/http_connection.h"

#include <boost/asio/buffer.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/openai_codec.h"
#include "glog/logging.h"

namespace conclave {
namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using Error = boost::system::error_code;

absl::string_view ReasonOf(int status) {
  const auto text = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(status)));
  return {text.data(), text.size()};
}

}  // namespace

HttpConnection::HttpConnection(asio::ip::tcp::socket socket, const HttpLimits& limits,
                               const HttpHandler& handler,
                               std::function<void(HttpConnection*)> closed)
    : socket_(std::move(socket)), limits_(limits), handler_(handler), closed_(std::move(closed)) {}

void HttpConnection::Start() {
  Error ignored;
  socket_.set_option(asio::ip::tcp::no_delay(true), ignored);  // only a matter of latency
  read_deadline_ = absl::Now() + limits_.idle_max;
  Read();
}

void HttpConnection::Read() {
  // While an answer is in progress the socket is still read, which is how a client that leaves is
  // noticed; what it sends ahead is bounded.
  if (reading_ || state_ == State::kClosed) return;
  if (state_ == State::kAnswer && in_.size() >= kHeadBytesMax) return;
  reading_ = true;
  socket_.async_read_some(asio::buffer(chunk_),
                          [self = shared_from_this()](Error error, size_t bytes) {
                            self->reading_ = false;
                            if (self->state_ == State::kClosed) return;
                            if (error) return self->Cut();
                            self->OnRead(bytes);
                          });
}

void HttpConnection::OnRead(size_t bytes) {
  if (state_ == State::kLinger) return Read();  // what a refused request still sends
  const bool first = state_ == State::kHead && in_.empty();
  in_.append(chunk_.data(), bytes);
  if (first) read_deadline_ = absl::Now() + limits_.head_max;
  if (state_ != State::kAnswer) Process();
  Read();
}

void HttpConnection::Process() {
  if (state_ == State::kHead && !ProcessHead()) return;
  if (state_ == State::kBody && !ProcessBody()) return;
  if (state_ != State::kBody) return;
  state_ = State::kAnswer;
  read_deadline_ = absl::InfiniteFuture();
  request_.body = std::move(parser_->get().body());
  parser_.reset();
  answer_complete_ = streaming_ = false;
  close_after_ = close_after_ || !request_.head.keep_alive;
  handler_(shared_from_this());
}

// True when a whole head was accepted.
bool HttpConnection::ProcessHead() {
  const size_t end = in_.find("\r\n\r\n");
  const size_t size = end == std::string::npos ? in_.size() : end + 4;
  if (size > kHeadBytesMax) {
    Refuse(431, absl::StrCat("the head has more than ", kHeadBytesMax, " bytes; shorten it"));
    return false;
  }
  if (end == std::string::npos) return false;
  std::variant<RequestHead, HttpRefusal> parsed =
      ParseRequestHead(absl::string_view(in_).substr(0, size));
  if (const HttpRefusal* refusal = std::get_if<HttpRefusal>(&parsed)) {
    Refuse(refusal->status, refusal->message);
    return false;
  }
  request_ = HttpRequest{std::get<RequestHead>(std::move(parsed)), ""};
  if (request_.head.content_length.value_or(0) > limits_.body_bytes_max) {
    Refuse(413, absl::StrCat("the body has ", *request_.head.content_length, " bytes; at most ",
                             limits_.body_bytes_max, " are read"));
    return false;
  }
  parser_.emplace();
  parser_->eager(true);
  parser_->header_limit(kHeadBytesMax);
  parser_->body_limit(limits_.body_bytes_max);
  state_ = State::kBody;
  read_deadline_ = absl::Now() + limits_.body_max;
  const bool body_follows = request_.head.chunked || request_.head.content_length.value_or(0) > 0;
  if (request_.head.expects_continue && body_follows && !request_.head.http10) {
    Queue("HTTP/1.1 100 Continue\r\n\r\n");
  }
  return true;
}

// True when the body is complete.
bool HttpConnection::ProcessBody() {
  while (!in_.empty() && !parser_->is_done()) {
    Error error;
    const size_t used = parser_->put(asio::buffer(in_), error);
    in_.erase(0, used);
    if (error == http::error::need_more) break;
    if (error == http::error::body_limit) {
      Refuse(413, absl::StrCat("the body has more than ", limits_.body_bytes_max, " bytes"));
      return false;
    }
    if (error) {
      Refuse(400, absl::StrCat("the request is malformed: ", error.message()));
      return false;
    }
  }
  if (!parser_->is_done() && in_.size() > kHeadBytesMax) {
    Refuse(400, "a chunk's header is too long");
    return false;
  }
  return parser_->is_done();
}

// Answers a request that is not understood; what follows it on the connection cannot be trusted.
void HttpConnection::Refuse(int status, absl::string_view message) {
  state_ = State::kAnswer;
  read_deadline_ = absl::InfiniteFuture();
  parser_.reset();
  in_.clear();
  request_ = HttpRequest{};
  answer_complete_ = streaming_ = false;
  close_after_ = true;
  Reply({.status = status, .body = ErrorJson({.http = status, .message = std::string(message)})});
}

std::string HttpConnection::HeadText(int status, absl::string_view content_type) const {
  return absl::StrCat("HTTP/1.1 ", status, " ", ReasonOf(status),
                      "\r\nContent-Type: ", content_type, "\r\nCache-Control: no-store\r\n",
                      close_after_ ? "Connection: close\r\n" : "");
}

void HttpConnection::Reply(HttpReply reply) {
  if (state_ != State::kAnswer || answer_complete_ || streaming_) return;
  std::string head = HeadText(reply.status, reply.content_type);
  for (const auto& [name, value] : reply.fields) absl::StrAppend(&head, name, ": ", value, "\r\n");
  absl::StrAppend(&head, "Content-Length: ", reply.body.size(), "\r\n\r\n");
  answer_complete_ = true;
  reply.body.insert(0, head);  // one write for head and body
  Queue(std::move(reply.body));
}

void HttpConnection::BeginStream(absl::string_view content_type) {
  if (state_ != State::kAnswer || answer_complete_ || streaming_) return;
  streaming_ = true;
  // HTTP/1.0 knows no chunks: there the end of the connection ends the body.
  if (request_.head.http10) close_after_ = true;
  Queue(HeadText(200, content_type) +
        (request_.head.http10 ? "\r\n" : "Transfer-Encoding: chunked\r\n\r\n"));
}

void HttpConnection::Write(absl::string_view data) {
  if (state_ != State::kAnswer || !streaming_ || answer_complete_ || data.empty()) return;
  if (request_.head.http10) {
    Queue(std::string(data));
  } else {
    Queue(absl::StrCat(absl::Hex(data.size()), "\r\n", data, "\r\n"));
  }
  if (queued_.size() + out_.size() - out_sent_ > limits_.unread_bytes_max) Cut();
}

void HttpConnection::EndStream(bool keep_alive) {
  if (state_ != State::kAnswer || !streaming_ || answer_complete_) return;
  answer_complete_ = true;
  close_after_ = close_after_ || !keep_alive;
  Queue(request_.head.http10 ? "" : "0\r\n\r\n");
}

void HttpConnection::Queue(std::string data) {
  if (queued_.empty()) {
    queued_ = std::move(data);
  } else {
    queued_ += data;
  }
  // Written from the loop, not from here: the handler's writes of one turn leave together.
  if (writing_) return;
  writing_ = true;
  asio::post(socket_.get_executor(), [self = shared_from_this()] { self->StartWrite(); });
}

void HttpConnection::StartWrite() {
  if (state_ == State::kClosed) return;
  if (out_sent_ == out_.size()) {
    out_ = std::exchange(queued_, std::string());
    out_sent_ = 0;
  }
  if (out_.empty()) {
    writing_ = false;
    if (state_ == State::kAnswer && answer_complete_) AnswerWritten();
    return;
  }
  write_deadline_ = absl::Now() + limits_.write_max;
  socket_.async_write_some(asio::buffer(out_.data() + out_sent_, out_.size() - out_sent_),
                           [self = shared_from_this()](Error error, size_t bytes) {
                             if (self->state_ == State::kClosed) return;
                             if (error) return self->Cut();
                             self->OnWritten(bytes);
                           });
}

void HttpConnection::OnWritten(size_t bytes) {
  out_sent_ += bytes;
  write_deadline_ = absl::InfiniteFuture();
  StartWrite();
}

void HttpConnection::AnswerWritten() {
  gone_ = nullptr;
  answer_complete_ = false;
  if (close_after_) {
    // The last bytes must not be lost to a reset: say that nothing more comes, and read until the
    // client closes.
    Error ignored;
    socket_.shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
    state_ = State::kLinger;
    read_deadline_ = absl::Now() + limits_.linger_max;
    return Read();
  }
  state_ = State::kHead;
  request_ = HttpRequest{};
  read_deadline_ = absl::Now() + (in_.empty() ? limits_.idle_max : limits_.head_max);
  if (!in_.empty()) Process();
  Read();
}

void HttpConnection::CheckDeadlines(absl::Time now) {
  if (now >= write_deadline_) return Cut();
  if (now < read_deadline_) return;
  const bool begun = state_ == State::kBody || (state_ == State::kHead && !in_.empty());
  if (!begun) return Cut();
  Refuse(408, "the request did not arrive in time; send it again");
}

void HttpConnection::CloseWhenIdle() {
  close_after_ = true;
  if (state_ != State::kAnswer && state_ != State::kLinger) Cut();
}

void HttpConnection::Cut() {
  if (state_ == State::kClosed) return;
  state_ = State::kClosed;
  Error ignored;
  socket_.close(ignored);
  const std::shared_ptr<HttpConnection> alive = shared_from_this();
  if (auto gone = std::exchange(gone_, nullptr)) gone();
  closed_(this);
}

}  // namespace conclave
