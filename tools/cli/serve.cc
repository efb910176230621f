#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "tools/cli/commands.h"
#include "tools/cli/local_cluster.h"
#include "tools/cli/server.h"

namespace conclave {
namespace {

constexpr absl::Duration kSuperviseInterval = absl::Milliseconds(100);

}  // namespace

absl::Status RunServe(const ServeOptions& options, const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const ResolvedModel model, ResolveModel(options.model));
  if (!model.note.empty()) std::cerr << "note: " << model.note << "\n";
  LocalClusterOptions cluster_options;
  cluster_options.model = options.model;
  cluster_options.workers = model.workers;
  cluster_options.host = options.host;
  cluster_options.port = options.port;
  cluster_options.state_dir = options.state_dir.empty() ? DefaultStateDir() : options.state_dir;
  cluster_options.served_model_name = options.served_model_name;
  cluster_options.verbose = true;
  cluster_options.cancelled = &cancelled;
  ASSIGN_OR_RETURN(std::unique_ptr<LocalCluster> cluster,
                   LocalCluster::Start(cluster_options, [](absl::string_view line) {
                     std::cerr << line << std::endl;
                   }));
  std::cerr << "Serving " << options.model.model << " on " << cluster->url() << " with "
            << model.workers << (model.workers == 1 ? " worker" : " workers")
            << (model.automatic ? "" : absl::StrCat(" (", model.spec.ToString(), ")"))
            << ". Ctrl-C drains and stops." << std::endl;
  while (!cancelled.load()) {
    ASSIGN_OR_RETURN(const std::vector<std::string> lines, cluster->Supervise());
    for (const std::string& line : lines) std::cerr << line << std::endl;
    absl::SleepFor(kSuperviseInterval);  // tidy: allow(sleep) paces the supervisor
  }
  std::cerr << "Draining." << std::endl;
  return cluster->Stop();
}

}  // namespace conclave
