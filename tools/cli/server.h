// Server: the coordinator a verb talks to: one that runs already (--url), or a throw-away local
// cluster for --model. Owned by one thread; its clients may be used by several.
#pragma once

#include <atomic>
#include <memory>

#include "absl/status/statusor.h"
#include "tools/cli/commands.h"
#include "tools/cli/http_client.h"
#include "tools/cli/local_cluster.h"

namespace conclave {

class Server {
 public:
  // `needs_text`: the model must have a tokenizer.
  static absl::StatusOr<std::unique_ptr<Server>> Open(const ServerOptions& server,
                                                      const ModelOptions& model, bool needs_text,
                                                      const std::atomic<bool>& cancelled);
  HttpClient Client(bool admin) const;
  // Stops a throw-away cluster; a running server is left as it is.
  absl::Status Close();

 private:
  HttpClient::Options client_;
  std::unique_ptr<LocalCluster> cluster_;
};

// "~/.conclave", or $CONCLAVE_HOME: where keys and the admin token live unless --state-dir says
// otherwise.
std::string DefaultStateDir();

// The admin token in `state_dir`. NotFound tells where it was looked for.
absl::StatusOr<std::string> ReadAdminToken(const std::string& state_dir);

}  // namespace conclave
