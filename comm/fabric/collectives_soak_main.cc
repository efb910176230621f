// Runs random operations on processes of this machine and checks that nothing grows; prints what
// each process holds after every tenth.
// Usage: collectives_soak [--ops N] [--ranks N] [--transport shm|tcp] [--seed N] [--bytes-max N]
#include <CLI/CLI.hpp>
#include <filesystem>
#include <iostream>
#include <string>
#include <system_error>

#include "comm/fabric/collectives_soak.h"

namespace conclave {
namespace {

// Names in /dev/shm: segments that a process left behind.
int SharedMemoryFiles() {
  std::error_code error;
  int files = 0;
  for (const auto& file : std::filesystem::directory_iterator("/dev/shm", error)) {
    files += file.path().filename().string().rfind("ucx_shm_", 0) == 0 ? 1 : 0;
  }
  return files;
}

int Soak(const SoakOptions& options) {
  const int before = SharedMemoryFiles();
  const auto print = [](const SoakSample& sample) {
    std::cout << sample.operations << " operations\n";
    for (size_t rank = 0; rank < sample.ranks.size(); ++rank) {
      std::cout << "  rank " << rank << ": " << ToString(sample.ranks[rank]) << "\n";
    }
    std::cout << std::flush;
  };
  const absl::StatusOr<SoakReport> report = RunSoak(options, print);
  const absl::Status status = report.ok() ? CheckNoGrowth(*report, {}) : report.status();
  if (!status.ok()) {
    std::cerr << "collectives_soak: error: " << status.message() << "\n";
    return 1;
  }
  std::cout << "digests:";
  for (const uint64_t digest : report->digests) std::cout << " " << std::hex << digest;
  std::cout << std::dec << "\nsegments in /dev/shm before and after: " << before << ", "
            << SharedMemoryFiles() << "\nno growth\n";
  return 0;
}

int Main(int argc, char** argv) {
  CLI::App app("Random fabric operations among processes, each checked; nothing may grow");
  SoakOptions options;
  std::string transport = "shm";
  app.add_option("--ops", options.operations, "Operations")
      ->check(CLI::Range(10, 1 << 30))
      ->capture_default_str();
  app.add_option("--ranks", options.ranks)->check(CLI::Range(1, 64))->capture_default_str();
  app.add_option("--transport", transport, "shm or tcp")
      ->check(CLI::IsMember({"shm", "tcp"}))
      ->capture_default_str();
  app.add_option("--seed", options.seed)->capture_default_str();
  app.add_option("--bytes-max", options.bytes_max, "Bytes of the longest message")
      ->check(CLI::Range(64, 1 << 26))
      ->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  options.one_node = transport == "shm";
  return Soak(options);
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
