// HttpConnection: one TCP connection of HttpServer, a state machine around one socket: head, body,
// answer, and again. Owned by its pending operations and by the exchange in progress; lives on the
// server's thread only. Included by the two files that know Boost.Asio.
#pragma once

#include <array>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "coordinator/api/http_server.h"

namespace conclave {

class HttpConnection : public HttpExchange, public std::enable_shared_from_this<HttpConnection> {
 public:
  // `closed` runs once, when the connection is over.
  HttpConnection(boost::asio::ip::tcp::socket socket, const HttpLimits& limits,
                 const HttpHandler& handler, std::function<void(HttpConnection*)> closed);

  void Start();
  // Ends what waited too long. Called by the server's tick.
  void CheckDeadlines(absl::Time now);
  // Closes now when no answer is in progress, else after it.
  void CloseWhenIdle();
  // Closes at once.
  void Cut();

  const HttpRequest& request() const override { return request_; }
  void Reply(HttpReply reply) override;
  void BeginStream(absl::string_view content_type) override;
  void Write(absl::string_view data) override;
  void EndStream(bool keep_alive) override;
  void OnGone(std::function<void()> gone) override { gone_ = std::move(gone); }

 private:
  enum class State { kHead, kBody, kAnswer, kLinger, kClosed };

  void Read();
  void OnRead(size_t bytes);
  void Process();
  bool ProcessHead();
  bool ProcessBody();
  void Refuse(int status, absl::string_view message);
  void Queue(std::string data);
  void StartWrite();
  void OnWritten(size_t bytes);
  void AnswerWritten();
  std::string HeadText(int status, absl::string_view content_type) const;

  boost::asio::ip::tcp::socket socket_;
  const HttpLimits& limits_;
  const HttpHandler& handler_;
  std::function<void(HttpConnection*)> closed_;

  State state_ = State::kHead;
  std::array<char, 16 << 10> chunk_;  // where a read lands
  std::string in_;  // read, not yet understood; bounded by chunk_ and kHeadBytesMax
  bool reading_ = false;
  HttpRequest request_;
  std::optional<boost::beast::http::request_parser<boost::beast::http::string_body>> parser_;

  std::string out_;  // being written, from out_sent_
  size_t out_sent_ = 0;
  std::string queued_;  // to be written next
  bool writing_ = false;
  bool streaming_ = false;
  bool answer_complete_ = false;  // all of it is in out_ and queued_
  bool close_after_ = false;
  std::function<void()> gone_;

  absl::Time read_deadline_ = absl::InfiniteFuture();
  absl::Time write_deadline_ = absl::InfiniteFuture();
};

}  // namespace conclave
