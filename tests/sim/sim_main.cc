// The simulator's command: runs seeds and reports those that fail. Exit status 0 when all pass.
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "tests/sim/run.h"

namespace conclave {
namespace {

struct Flags {
  uint64_t first = 1;
  uint64_t seeds = 1;
  int threads = 2;
  bool verbose = false;
  std::string canary = "none";
};

// A CHECK of the code under test ends the process: the seed must be known. The thread's name
// carries it, as a failure function has no arguments. Names have 15 characters at most.
void NameThread(uint64_t seed) {
  char name[16];
  std::snprintf(name, sizeof(name), "%llu", static_cast<unsigned long long>(seed));
  pthread_setname_np(pthread_self(), name);
}

void OnCheckFailed() {
  char name[16] = "?";
  pthread_getname_np(pthread_self(), name, sizeof(name));
  std::fprintf(stderr, "a CHECK failed; repeat with --first %s --seeds 1 --verbose\n", name);
  std::abort();
}

void Print(uint64_t seed, const SimReport& report, bool verbose) {
  if (report.violations.empty() && !verbose) return;
  std::printf(
      "%s\n  %d requests: %d succeeded, %d cancelled, %d failed; %d epochs, %d deeds, %llu "
      "events, hash %016llx\n",
      report.scenario.c_str(), report.requests, report.succeeded, report.cancelled, report.failed,
      report.epochs, report.deeds, static_cast<unsigned long long>(report.events),
      static_cast<unsigned long long>(report.log_hash));
  if (report.violations.empty()) return;
  for (const std::string& event : report.recent) std::printf("    %s\n", event.c_str());
  for (const std::string& violation : report.violations) {
    std::printf("  VIOLATION %s\n", violation.c_str());
  }
  std::printf("seed %llu FAILED; repeat with --first %llu --seeds 1 --verbose\n",
              static_cast<unsigned long long>(seed), static_cast<unsigned long long>(seed));
}

int Run(const Flags& flags, Canary canary) {
  std::atomic<uint64_t> next{0};
  std::atomic<uint64_t> failed{0};
  std::atomic<uint64_t> events{0};
  std::mutex printing;
  const absl::Time start = absl::Now();
  const auto work = [&] {
    for (uint64_t i = next++; i < flags.seeds; i = next++) {
      const uint64_t seed = flags.first + i;
      NameThread(seed);
      const SimReport report = RunScenario(MakeScenario(seed, canary), flags.verbose);
      events += report.events;
      if (!report.violations.empty()) ++failed;
      const std::lock_guard<std::mutex> lock(printing);
      Print(seed, report, flags.verbose);
    }
  };
  std::vector<std::thread> threads;
  const int count = flags.verbose ? 1 : std::max(1, flags.threads);
  for (int i = 0; i < count; ++i) threads.emplace_back(work);
  for (std::thread& thread : threads) thread.join();
  std::printf(
      "%llu seeds from %llu, %llu events, %.1f s: %llu failed\n",
      static_cast<unsigned long long>(flags.seeds), static_cast<unsigned long long>(flags.first),
      static_cast<unsigned long long>(events.load()), absl::ToDoubleSeconds(absl::Now() - start),
      static_cast<unsigned long long>(failed.load()));
  return failed.load() == 0 ? 0 : 1;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  google::InitGoogleLogging(argv[0]);
  google::InstallFailureFunction(&conclave::OnCheckFailed);
  conclave::Flags flags;
  CLI::App app("Simulates clusters under faults, one for each seed. Example: sim --seeds 500");
  app.add_option("--first", flags.first, "the first seed");
  app.add_option("--seeds", flags.seeds, "how many seeds");
  app.add_option("--threads", flags.threads, "seeds that run at a time");
  app.add_flag("--verbose", flags.verbose, "print every event; one thread");
  app.add_option("--canary", flags.canary, "a deliberate fault: none, token, page, hang");
  CLI11_PARSE(app, argc, argv);
  const std::optional<conclave::Canary> canary = conclave::ParseCanary(flags.canary);
  if (!canary.has_value()) {
    std::fprintf(stderr, "--canary %s is not known; use none, token, page or hang\n",
                 flags.canary.c_str());
    return 2;
  }
  return conclave::Run(flags, *canary);
}
