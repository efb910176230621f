#include "tools/cli/bench_fabric_flags.h"

#include <memory>

#include "tools/cli/bench_fabric.h"

namespace conclave {
namespace {

void AddMoeFlags(CLI::App& app, BenchFabricOptions& options) {
  app.add_option("--tp", options.tensor_parallel, "moe: tensor-parallel sizes")
      ->delimiter(',')
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--tokens", options.tokens, "moe: tokens of each dp group")
      ->delimiter(',')
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--hidden", options.hidden, "moe: elements of a row")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str();
  app.add_option("--top-k", options.top_k, "moe: experts of a token")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  app.add_option("--experts", options.experts, "moe: experts of the layer")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--nodes", options.nodes, "moe: nodes that two-level takes the ranks for")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
}

}  // namespace

void AddBenchFabric(CLI::App& bench, const ChooseLongVerb& choose) {
  auto* app = bench.add_subcommand(
      "fabric", "Messages, collectives and the MoE exchange between processes of this machine");
  auto options = std::make_shared<BenchFabricOptions>();
  app->add_option("--transport", options->transport, "shm (shared memory) or tcp")
      ->capture_default_str();
  app->add_option("--sizes", options->sizes, "Bytes of messages, such as 64,4KiB,1MiB")
      ->delimiter(',')
      ->capture_default_str();
  app->add_option("--ranks", options->ranks, "Processes")
      ->check(CLI::Range(2, 64))
      ->capture_default_str();
  app->add_option("--collective", options->collectives,
                  "ping_pong, stream, all_reduce, reduce_scatter, all_gather, broadcast, "
                  "all_to_all or moe; several are measured in turn (default: all)")
      ->delimiter(',');
  AddMoeFlags(*app, *options);
  app->add_option("--seconds", options->seconds, "About as long each measurement takes")
      ->check(CLI::Range(0.001, 60.0))
      ->capture_default_str();
  app->add_flag("--json", options->json, "Print JSON, one object a line");
  app->footer("Example: conclave bench fabric --transport tcp --sizes 64,64KiB --ranks 2");
  app->callback([options, choose] {
    choose("bench fabric",
           [options](const auto& cancelled) { return RunBenchFabric(*options, cancelled); });
  });
}

}  // namespace conclave
