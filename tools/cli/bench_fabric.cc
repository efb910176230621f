#include "tools/cli/bench_fabric.h"

#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <iostream>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "tools/cli/bench_fabric_cases.h"

namespace conclave {
namespace {

// Beyond the time it should take, how long a rank may be silent: machines that are busy.
constexpr absl::Duration kCaseTimeMax = absl::Minutes(5);
constexpr absl::Duration kCancelPoll = absl::Milliseconds(100);

std::string SizeText(size_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB"};
  int unit = 0;
  for (; unit < 3 && bytes >= 1024 && bytes % 1024 == 0; ++unit) bytes /= 1024;
  return absl::StrCat(bytes, " ", kUnits[unit]);
}

std::string RateText(double bytes_per_second) {
  if (bytes_per_second >= 1e9) return absl::StrFormat("%.2f GB/s", bytes_per_second / 1e9);
  return absl::StrFormat("%.1f MB/s", bytes_per_second / 1e6);
}

std::string CaseTitle(const FabricCase& c) {
  switch (c.kind) {
    case FabricCaseKind::kPingPong:
    case FabricCaseKind::kStream:
      return absl::StrCat(c.name, " ", c.a, "-", c.b);
    case FabricCaseKind::kCollective:
      return c.name;
    case FabricCaseKind::kMoe:
      return absl::StrCat("moe tp=", c.moe.tp, " ", c.moe.tokens, " tokens");
  }
  return c.name;
}

void PrintHeading(const FabricCase& c) {
  const bool moe = c.kind == FabricCaseKind::kMoe;
  const char* what = c.kind == FabricCaseKind::kPingPong ? "one way"
                     : c.kind == FabricCaseKind::kStream ? "a window"
                                                         : "a call";
  std::cout << CaseTitle(c) << ": us " << what << "\n"
            << absl::StrFormat("  %-10s %10s %10s %10s %10s %12s %10s", moe ? "schedule" : "size",
                               "min", "p50", "p90", "p99", "rate", "messages")
            << (moe ? "   against naive" : "") << "\n";
}

// `naive_p50` of the same load, 0 if there is none.
void PrintRow(const FabricCase& c, const FabricFigures& f, double naive_p50) {
  const bool moe = c.kind == FabricCaseKind::kMoe;
  const std::string rate =
      c.kind == FabricCaseKind::kPingPong ? RateText(f.p50 > 0 ? c.bytes / f.p50 : 0)
                                          : RateText(f.BytesPerSecond());
  std::cout << absl::StrFormat("  %-10s %10.2f %10.2f %10.2f %10.2f %12s %10.1f",
                               moe ? ExchangeKindName(c.moe.kind) : SizeText(c.bytes), f.min * 1e6,
                               f.p50 * 1e6, f.p90 * 1e6, f.p99 * 1e6, rate, f.messages);
  if (moe && naive_p50 > 0) std::cout << absl::StrFormat(" %14.2fx", naive_p50 / f.p50);
  std::cout << "\n" << std::flush;
}

void PrintJson(const BenchFabricOptions& options, const FabricCase& c, const FabricFigures& f) {
  boost::json::object out = {{"case", c.name}, {"transport", options.transport},
                             {"ranks", options.ranks}};
  if (c.kind == FabricCaseKind::kMoe) {
    out["schedule"] = ExchangeKindName(c.moe.kind);
    out["tp"] = c.moe.tp;
    out["nodes"] = c.moe.nodes;
    out["tokens"] = c.moe.tokens;
    out["hidden"] = c.moe.hidden;
    out["top_k"] = c.moe.top_k;
    out["experts"] = c.moe.experts;
  } else {
    out["size"] = c.bytes;
  }
  if (c.kind == FabricCaseKind::kPingPong || c.kind == FabricCaseKind::kStream) {
    out["pair"] = boost::json::array{c.a, c.b};
  }
  out["calls"] = f.calls;
  out["min_us"] = f.min * 1e6;
  out["p50_us"] = f.p50 * 1e6;
  out["p90_us"] = f.p90 * 1e6;
  out["p99_us"] = f.p99 * 1e6;
  out["max_us"] = f.max * 1e6;
  out["mean_us"] = f.mean * 1e6;
  out["bytes_per_call"] = f.bytes;
  out["messages_per_call"] = f.messages;
  out["bytes_per_s"] = f.BytesPerSecond();
  out["bytes_per_s_p50"] = f.BytesPerSecondP50();
  std::cout << boost::json::serialize(out) << "\n" << std::flush;
}

// One line that is written over, on terminals only.
class ProgressLine {
 public:
  explicit ProgressLine(size_t cases) : cases_(cases) {}
  ~ProgressLine() { Clear(); }
  void Show(size_t done, const FabricCase& c) {
    if (!terminal_) return;
    std::cerr << "\r\033[K[" << done + 1 << "/" << cases_ << "] " << CaseTitle(c);
    if (c.kind != FabricCaseKind::kMoe) std::cerr << ", " << SizeText(c.bytes);
    std::cerr << std::flush;
  }
  void Clear() {
    if (terminal_) std::cerr << "\r\033[K" << std::flush;
  }

 private:
  const size_t cases_;
  const bool terminal_ = isatty(STDERR_FILENO) == 1;
};

// The next line of `rank`, unless the user interrupts.
absl::StatusOr<FabricFigures> AwaitFigures(ProcessWorld& world, const FabricCase& c,
                                           const std::atomic<bool>& cancelled) {
  const absl::Time deadline = absl::Now() + kCaseTimeMax + absl::Seconds(10 * c.seconds);
  while (absl::Now() < deadline) {
    if (cancelled.load()) return absl::CancelledError("interrupted");
    const absl::StatusOr<std::string> line = world.Receive(c.reporter(), kCancelPoll);
    if (absl::IsDeadlineExceeded(line.status())) continue;
    RETURN_IF_ERROR(line.status());
    return DecodeFigures(*line);
  }
  return absl::DeadlineExceededError("no figures came; is the machine overloaded?");
}

void RunCases(ProcessRank& rank, const std::vector<FabricCase>& cases) {
  for (const FabricCase& c : cases) {
    const absl::StatusOr<FabricFigures> figures = RunFabricCase(rank, c);
    if (!figures.ok()) return rank.Say(std::string(figures.status().message()));
    if (rank.rank() == c.reporter()) rank.Say(EncodeFigures(*figures));
  }
  rank.AwaitGoOn();  // the others may still need this rank's connections
}

}  // namespace

absl::Status RunBenchFabric(const BenchFabricOptions& options,
                            const std::atomic<bool>& cancelled) {
  ASSIGN_OR_RETURN(const std::vector<FabricCase> cases, FabricCases(options));
  ProcessWorldOptions world_options;
  world_options.one_node = options.transport == "shm";
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessWorld> world,
                   ProcessWorld::Start(options.ranks, world_options,
                                       [&](ProcessRank& rank) { RunCases(rank, cases); }));
  if (!options.json) {
    std::cout << options.ranks << " processes, "
              << (world_options.one_node ? "shared memory" : "TCP") << "\n";
  }
  ProgressLine progress(cases.size());
  std::string title;
  double naive_p50 = 0;
  for (size_t i = 0; i < cases.size(); ++i) {
    const FabricCase& c = cases[i];
    progress.Show(i, c);
    const absl::StatusOr<FabricFigures> figures = AwaitFigures(*world, c, cancelled);
    progress.Clear();
    if (!figures.ok()) {
      if (absl::IsCancelled(figures.status())) return figures.status();
      return absl::UnavailableError(absl::StrCat(CaseTitle(c), ", rank ", c.reporter(), ": ",
                                                 figures.status().message()));
    }
    if (options.json) {
      PrintJson(options, c, *figures);
      continue;
    }
    if (title != CaseTitle(c)) PrintHeading(c);
    title = CaseTitle(c);
    if (c.moe.kind == ExchangeKind::kNaive) naive_p50 = figures->p50;
    PrintRow(c, *figures, naive_p50);
  }
  return absl::OkStatus();
}

}  // namespace conclave
