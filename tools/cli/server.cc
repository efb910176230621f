#include "tools/cli/server.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <iostream>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {

std::string DefaultStateDir() {
  if (const char* home = getenv("CONCLAVE_HOME"); home != nullptr && *home != 0) return home;
  const char* home = getenv("HOME");
  return absl::StrCat(home != nullptr ? home : ".", "/.conclave");
}

absl::StatusOr<std::string> ReadAdminToken(const std::string& state_dir) {
  const std::string path = state_dir + "/admin.token";
  std::ifstream in(path);
  std::string token;
  if (!std::getline(in, token) || token.empty()) {
    return absl::NotFoundError(absl::StrCat(
        "no admin token in ", path, "; give --admin-token, or the --state-dir of the coordinator"));
  }
  return std::string(absl::StripAsciiWhitespace(token));
}

absl::StatusOr<std::unique_ptr<Server>> Server::Open(const ServerOptions& server,
                                                     const ModelOptions& model, bool needs_text,
                                                     const std::atomic<bool>& cancelled) {
  auto result = std::make_unique<Server>();
  result->client_.cancelled = &cancelled;
  if (!server.url.empty()) {
    result->client_.base_url = server.url;
    result->client_.bearer = server.admin_token;
    if (server.admin_token.empty()) {
      const absl::StatusOr<std::string> token =
          ReadAdminToken(server.state_dir.empty() ? DefaultStateDir() : server.state_dir);
      if (token.ok()) result->client_.bearer = *token;
    }
    return result;
  }
  if (model.model.empty()) {
    return absl::InvalidArgumentError("give --model DIR, or --url of a running coordinator");
  }
  ASSIGN_OR_RETURN(const ResolvedModel resolved, ResolveModel(model));
  if (!resolved.note.empty()) std::cerr << "note: " << resolved.note << "\n";
  if (needs_text && !resolved.has_tokenizer) {
    return absl::InvalidArgumentError(
        absl::StrCat("--model '", model.model, "' has no tokenizer.json; give --tokens FILE"));
  }
  LocalClusterOptions options;
  options.model = model;
  options.workers = resolved.workers;
  options.state_dir = server.state_dir;
  options.cancelled = &cancelled;
  const bool terminal = isatty(STDERR_FILENO) == 1;
  const auto progress = [terminal](absl::string_view line) {
    if (terminal) std::cerr << line << "\n";
  };
  ASSIGN_OR_RETURN(result->cluster_, LocalCluster::Start(options, progress));
  return result;
}

HttpClient Server::Client(bool admin) const {
  if (cluster_ != nullptr) return cluster_->Client(admin);
  HttpClient::Options options = client_;
  if (!admin) options.bearer.clear();
  return HttpClient(options);
}

absl::Status Server::Close() {
  if (cluster_ == nullptr) return absl::OkStatus();
  const absl::Status status = cluster_->Stop();
  cluster_.reset();
  return status;
}

}  // namespace conclave
