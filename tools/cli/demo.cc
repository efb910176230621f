#include <boost/json.hpp>
#include <filesystem>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "tools/cli/commands.h"
#include "tools/cli/local_cluster.h"
#include "tools/cli/server.h"
#include "tools/cli/status_view.h"

namespace conclave {
namespace {

// The demo checkpoint beside the program: in an installation, in Bazel's runfiles, in the source
// tree.
absl::StatusOr<std::string> FindDemoModel() {
  ASSIGN_OR_RETURN(const std::string program, ProgramPath());
  const std::string folder = std::filesystem::path(program).parent_path();
  const std::string candidates[] = {folder + "/../share/demo_model",
                                    program + ".runfiles/conclave/tools/demo_model",
                                    "tools/demo_model"};
  for (const std::string& candidate : candidates) {
    if (std::filesystem::exists(candidate + "/config.json")) return candidate;
  }
  return absl::InvalidArgumentError(
      "the demo model is not beside the program; name it with --model tools/demo_model");
}

absl::Status GenerateLive(const LocalCluster& cluster, const DemoOptions& options,
                          const std::string& prompt) {
  CompletionOptions completion;
  completion.prompt = prompt;
  completion.tokens_max = options.tokens_max;
  completion.temperature = 0;
  std::cout << "\n> " << prompt << std::flush;
  ASSIGN_OR_RETURN(const Completion result,
                   Complete(cluster.Client(false), completion,
                            [](absl::string_view piece) { std::cout << piece << std::flush; }));
  const double decode_s = result.total_s - result.first_token_s;
  const double tokens = static_cast<double>(result.token_ids.size());
  std::cout << absl::StrFormat("\n  [%d tokens, first after %.0f ms, then %.0f tokens/s]",
                               result.token_ids.size(), result.first_token_s * 1e3,
                               decode_s > 0 ? (tokens - 1) / decode_s : 0)
            << std::endl;
  return absl::OkStatus();
}

}  // namespace

absl::Status RunDemo(const DemoOptions& given, const std::atomic<bool>& cancelled) {
  DemoOptions options = given;
  if (options.model.model.empty()) {
    ASSIGN_OR_RETURN(options.model.model, FindDemoModel());
  }
  if (options.prompts.empty()) {
    options.prompts = {"It is a truth universally acknowledged", "In the beginning God"};
  }
  ASSIGN_OR_RETURN(const ResolvedModel model, ResolveModel(options.model));
  LocalClusterOptions cluster_options;
  cluster_options.model = options.model;
  cluster_options.workers = model.workers;
  cluster_options.cancelled = &cancelled;
  const absl::Time begin = absl::Now();
  std::cout << "Starting a coordinator and " << model.workers << " workers on loopback ("
            << model.spec.ToString() << ")." << std::endl;
  ASSIGN_OR_RETURN(std::unique_ptr<LocalCluster> cluster,
                   LocalCluster::Start(cluster_options, [](absl::string_view line) {
                     std::cout << "  " << line << std::endl;
                   }));
  std::cout << absl::StrFormat("Serving on %s after %.2f s.\n\n", cluster->url(),
                               absl::ToDoubleSeconds(absl::Now() - begin));
  const HttpClient admin = cluster->Client(true);
  ASSIGN_OR_RETURN(std::string body, FetchStatus(admin));
  boost::json::value status = boost::json::parse(body);
  std::cout << RenderHeadline(status.as_object()) << RenderPlan(status.as_object());
  for (const std::string& prompt : options.prompts) {
    RETURN_IF_ERROR(GenerateLive(*cluster, options, prompt));
  }
  ASSIGN_OR_RETURN(body, FetchStatus(admin));
  status = boost::json::parse(body);
  std::cout << "\n" << RenderTraffic(status.as_object());
  RETURN_IF_ERROR(cluster->Stop());
  std::cout << "\nStopped cleanly: " << model.workers + 1 << " processes left in good order."
            << std::endl;
  return absl::OkStatus();
}

}  // namespace conclave
