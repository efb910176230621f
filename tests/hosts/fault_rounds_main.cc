// fault_rounds: faults at every phase of an MoE exchange between processes on hosts
// (fault_rounds.h). Prints how long detection took for each fault and phase; exits 1 when a rule
// was broken. A round is repeated by --seed, --first and --rounds 1.
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "tests/hosts/fault_rounds.h"

namespace conclave {
namespace {

struct Quantiles {
  double least = 0, median = 0, p90 = 0, most = 0;  // seconds
};

Quantiles QuantilesOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const size_t n = values.size();
  return {values[0], values[n / 2], values[std::min(n - 1, n * 9 / 10)], values[n - 1]};
}

boost::json::object ToJson(const Quantiles& q) {
  return {{"min", q.least}, {"median", q.median}, {"p90", q.p90}, {"max", q.most}};
}

int Print(const FaultRoundsOptions& options, const FaultRoundsResult& result,
          const std::string& json) {
  std::printf("%-11s %-16s %7s | %-35s | %s\n", "fault", "phase", "reports",
              "seconds since the fault", "seconds waited");
  boost::json::array rows;
  std::vector<double> since_all, waited_all;
  for (const auto& [key, detection] : result.detections) {
    const Quantiles since = QuantilesOf(detection.since_fault);
    const Quantiles waited = QuantilesOf(detection.waited);
    std::printf("%-11s %-16s %7zu | %8.3f %8.3f %8.3f %8.3f | %8.3f %8.3f %8.3f %8.3f\n",
                Name(key.first), Name(key.second), detection.waited.size(), since.least,
                since.median, since.p90, since.most, waited.least, waited.median, waited.p90,
                waited.most);
    rows.push_back({{"fault", Name(key.first)},
                    {"phase", Name(key.second)},
                    {"reports", detection.waited.size()},
                    {"since_fault_seconds", ToJson(since)},
                    {"waited_seconds", ToJson(waited)}});
    since_all.insert(since_all.end(), detection.since_fault.begin(), detection.since_fault.end());
    waited_all.insert(waited_all.end(), detection.waited.begin(), detection.waited.end());
  }
  const Quantiles since = QuantilesOf(since_all), waited = QuantilesOf(waited_all);
  std::printf("%-28s %7d | %8.3f %8.3f %8.3f %8.3f | %8.3f %8.3f %8.3f %8.3f\n", "all",
              result.reports, since.least, since.median, since.p90, since.most, waited.least,
              waited.median, waited.p90, waited.most);
  std::printf("(least, median, 9 of 10, most) %d rounds, %zu violations; descriptors of a process "
              "after its first round %d, its last %d\n",
              result.rounds, result.violations.size(), result.descriptors_first,
              result.descriptors_last);
  for (const std::string& line : result.violations) std::printf("VIOLATION %s\n", line.c_str());
  if (!json.empty()) {
    boost::json::array violations(result.violations.begin(), result.violations.end());
    std::ofstream out(json);
    out << boost::json::serialize(boost::json::object{
               {"bench", "fault_rounds"},
               {"seed", options.seed},
               {"rounds", result.rounds},
               {"ranks", options.world.ranks},
               {"timeout_seconds", absl::ToDoubleSeconds(options.world.timeout)},
               {"reports", result.reports},
               {"since_fault_seconds", ToJson(since)},
               {"waited_seconds", ToJson(waited)},
               {"detections", rows},
               {"descriptors_first", result.descriptors_first},
               {"descriptors_last", result.descriptors_last},
               {"violations", violations}})
        << "\n";
    out.close();
    if (!out) {
      std::cerr << "fault_rounds: cannot write --json " << json << "\n";
      return 1;
    }
  }
  return result.violations.empty() ? 0 : 1;
}

int Main(int argc, char** argv) {
  FaultRoundsOptions options;
  std::string json;
  int64_t timeout_ms = 1000, tolerance_ms = 300;
  CLI::App app("Faults at every phase of an MoE exchange between processes on hosts.\n"
               "example: fault_rounds --rounds 200 --seed 7 --json faults.json");
  app.add_option("--rounds", options.rounds)->capture_default_str();
  app.add_option("--first", options.first, "number of the first round")->capture_default_str();
  app.add_option("--seed", options.seed)->capture_default_str();
  app.add_option("--ranks", options.world.ranks)->capture_default_str();
  app.add_option("--ranks-per-host", options.world.ranks_per_host)->capture_default_str();
  app.add_option("--timeout-ms", timeout_ms, "of each operation")->capture_default_str();
  app.add_option("--tolerance-ms", tolerance_ms, "for a busy machine")->capture_default_str();
  app.add_option("--link-mbit", options.link_mbit)->capture_default_str();
  app.add_option("--json", json, "file to write");
  app.add_flag("--verbose", options.verbose, "every round and report");
  CLI11_PARSE(app, argc, argv);
  options.world.timeout = absl::Milliseconds(timeout_ms);
  options.tolerance = absl::Milliseconds(tolerance_ms);
  const auto rounds = FaultRounds::Create(options);
  absl::Status status = rounds.status();
  if (status.ok()) {
    const auto result = (*rounds)->Run();
    if (result.ok()) return Print(options, *result, json);
    status = result.status();
  }
  std::cerr << "fault_rounds: " << status.ToString() << "\n";
  return 1;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) {
  // UCX would log each fault that is made. It reads this when it is loaded, before main.
  if (getenv("UCX_LOG_LEVEL") == nullptr) {
    setenv("UCX_LOG_LEVEL", "fatal", 1);
    execv("/proc/self/exe", argv);
  }
  return conclave::Main(argc, argv);
}
