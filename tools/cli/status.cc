#include "comm/base/status.h"

#include <boost/json.hpp>
#include <iostream>

#include "tools/cli/commands.h"
#include "tools/cli/server.h"
#include "tools/cli/status_view.h"

namespace conclave {

absl::StatusOr<std::string> FetchStatus(const HttpClient& client) {
  ASSIGN_OR_RETURN(const HttpResponse response, client.Get("/admin/status"));
  RETURN_IF_ERROR(StatusFromHttp(response, "/admin/status"));
  return response.body;
}

namespace {

absl::Status PrintExperts(const HttpClient& client) {
  ASSIGN_OR_RETURN(const HttpResponse response, client.Get("/admin/experts"));
  RETURN_IF_ERROR(StatusFromHttp(response, "/admin/experts"));
  std::cout << response.body << "\n";
  return absl::OkStatus();
}

}  // namespace

absl::Status RunStatus(const StatusOptions& options) {
  const std::atomic<bool> never{false};
  ASSIGN_OR_RETURN(const std::unique_ptr<Server> server,
                   Server::Open(options.server, {}, false, never));
  if (options.experts) return PrintExperts(server->Client(true));
  ASSIGN_OR_RETURN(const std::string body, FetchStatus(server->Client(true)));
  if (options.json) {
    std::cout << body << "\n";
    return absl::OkStatus();
  }
  boost::json::error_code error;
  const boost::json::value status = boost::json::parse(body, error);
  if (error || !status.is_object()) {
    return absl::InternalError("/admin/status did not answer with a JSON object");
  }
  std::cout << RenderStatus(status.as_object());
  return absl::OkStatus();
}

}  // namespace conclave
