#include "tools/cli/bench_fabric_cases.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "tools/cli/model_options.h"

namespace conclave {
namespace {

constexpr char kPingPong[] = "ping_pong";
constexpr char kStream[] = "stream";
constexpr char kMoe[] = "moe";
constexpr int64_t kSizeMax = int64_t{1} << 30;

absl::StatusOr<std::vector<size_t>> ParseSizes(const BenchFabricOptions& options) {
  std::vector<size_t> sizes;
  for (const std::string& text : options.sizes) {
    ASSIGN_OR_RETURN(const int64_t size, ParseBytes("--sizes", text));
    if (size > kSizeMax) {
      return absl::InvalidArgumentError(
          absl::StrCat("--sizes ", text, ": messages of more than 1GiB are not measured"));
    }
    sizes.push_back(static_cast<size_t>(size));
  }
  return sizes;
}

absl::StatusOr<std::vector<std::string>> ChosenNames(const BenchFabricOptions& options) {
  const std::vector<std::string> known = FabricCaseNames();
  for (const std::string& name : options.collectives) {
    if (std::find(known.begin(), known.end(), name) != known.end()) continue;
    return absl::InvalidArgumentError(absl::StrCat("--collective '", name, "': there is ",
                                                   absl::StrJoin(known, ", "),
                                                   "; leave it out for all"));
  }
  if (options.collectives.empty()) return known;
  std::vector<std::string> chosen;
  for (const std::string& name : known) {
    const auto& asked = options.collectives;
    if (std::find(asked.begin(), asked.end(), name) != asked.end()) chosen.push_back(name);
  }
  return chosen;
}

void AddPairs(const std::string& name, const std::vector<size_t>& sizes,
              const BenchFabricOptions& options, std::vector<FabricCase>& cases) {
  FabricCase c;
  c.kind = name == kStream ? FabricCaseKind::kStream : FabricCaseKind::kPingPong;
  c.name = name;
  c.seconds = options.seconds;
  for (c.a = 0; c.a < options.ranks; ++c.a) {
    for (c.b = c.a + 1; c.b < options.ranks; ++c.b) {
      for (const size_t size : sizes) {
        c.bytes = size;
        cases.push_back(c);
      }
    }
  }
}

void AddCollective(const FabricCollectiveName& named, const std::vector<size_t>& sizes,
                   const BenchFabricOptions& options, std::vector<FabricCase>& cases) {
  for (const size_t size : sizes) {
    FabricCase c;
    c.kind = FabricCaseKind::kCollective;
    c.name = named.name;
    c.collective = named.collective;
    c.bytes = size;
    c.seconds = options.seconds;
    cases.push_back(c);
  }
}

absl::Status AddMoe(const BenchFabricOptions& options, std::vector<FabricCase>& cases) {
  if (options.experts < options.top_k) {
    return absl::InvalidArgumentError(absl::StrCat("--experts ", options.experts,
                                                   ": a token chooses --top-k ", options.top_k,
                                                   " different ones; give at least as many"));
  }
  for (const int tp : options.tensor_parallel) {
    if (options.ranks % tp != 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("--tp ", tp, " does not divide --ranks ", options.ranks));
    }
    for (const int tokens : options.tokens) {
      for (const ExchangeKind kind : BenchExchangeKinds()) {
        FabricCase c;
        c.kind = FabricCaseKind::kMoe;
        c.name = kMoe;
        c.seconds = options.seconds;
        c.moe = {.kind = kind,
                 .ranks = options.ranks,
                 .tp = tp,
                 .nodes = std::min(options.nodes, options.ranks),
                 .tokens = tokens,
                 .hidden = options.hidden,
                 .top_k = options.top_k,
                 .experts = options.experts};
        cases.push_back(std::move(c));
      }
    }
  }
  return absl::OkStatus();
}

FabricFigures FiguresOf(const std::vector<double>& seconds, double bytes, double messages) {
  FabricFigures figures;
  figures.calls = static_cast<int>(seconds.size());
  figures.min = PercentileOf(seconds, 0);
  figures.p50 = PercentileOf(seconds, 0.5);
  figures.p90 = PercentileOf(seconds, 0.9);
  figures.p99 = PercentileOf(seconds, 0.99);
  figures.max = PercentileOf(seconds, 1);
  figures.mean = std::accumulate(seconds.begin(), seconds.end(), 0.0) /
                 std::max<double>(1, static_cast<double>(seconds.size()));
  figures.bytes = bytes;
  figures.messages = messages;
  return figures;
}

absl::StatusOr<FabricFigures> RunPair(ProcessRank& rank, const FabricCase& c) {
  if (rank.rank() != c.a && rank.rank() != c.b) return FabricFigures();
  const bool streams = c.kind == FabricCaseKind::kStream;
  PairLoad load = {.peer = c.a + c.b - rank.rank(), .bytes = c.bytes};
  load.window = streams ? kStreamWindow : 1;
  load.calls = CallsFor(c.bytes * load.window, c.seconds);
  ASSIGN_OR_RETURN(const std::vector<double> seconds, streams
                                                          ? TimeStream(*rank.fabric(), load)
                                                          : TimePingPong(*rank.fabric(), load));
  return FiguresOf(seconds, static_cast<double>(c.bytes) * load.window, load.window);
}

absl::StatusOr<FabricFigures> RunCollective(ProcessRank& rank, const FabricCase& c) {
  CollectiveLoad load = {.collective = c.collective, .bytes = c.bytes};
  load.calls = CallsFor(c.bytes * rank.ranks(), c.seconds);
  const FabricCounters before = rank.fabric()->counters();
  ASSIGN_OR_RETURN(const std::vector<double> own,
                   TimeCollective(*rank.fabric(), rank.Whole(), load));
  const FabricCounters after = rank.fabric()->counters();
  ASSIGN_OR_RETURN(const std::vector<double> seconds,
                   SlowestOf(*rank.fabric(), rank.Whole(), own));
  const double calls = load.calls.warmups + load.calls.calls;
  return FiguresOf(seconds, static_cast<double>(after.bytes_sent - before.bytes_sent) / calls,
                   static_cast<double>(after.messages_sent - before.messages_sent) / calls);
}

absl::StatusOr<FabricFigures> RunMoe(ProcessRank& rank, const FabricCase& c) {
  MoeLoad load = c.moe;
  const size_t row_bytes = static_cast<size_t>(load.hidden) * sizeof(float);
  load.calls = CallsFor(2 * row_bytes * load.tokens * load.top_k * load.ranks, c.seconds);
  ASSIGN_OR_RETURN(const MoeTimes own, TimeMoeExchange(*rank.fabric(), load));
  ASSIGN_OR_RETURN(const std::vector<double> seconds,
                   SlowestOf(*rank.fabric(), rank.Whole(), own.seconds));
  return FiguresOf(seconds, own.bytes_per_call, own.messages_per_call);
}

}  // namespace

std::vector<std::string> FabricCaseNames() {
  std::vector<std::string> names = {kPingPong, kStream};
  for (const FabricCollectiveName& named : FabricCollectives()) names.push_back(named.name);
  names.push_back(kMoe);
  return names;
}

absl::StatusOr<std::vector<FabricCase>> FabricCases(const BenchFabricOptions& options) {
  if (options.transport != "shm" && options.transport != "tcp") {
    return absl::InvalidArgumentError(
        absl::StrCat("--transport '", options.transport, "': there is shm and tcp"));
  }
  ASSIGN_OR_RETURN(const std::vector<size_t> sizes, ParseSizes(options));
  ASSIGN_OR_RETURN(const std::vector<std::string> names, ChosenNames(options));
  std::vector<FabricCase> cases;
  for (const std::string& name : names) {
    if (name == kPingPong || name == kStream) AddPairs(name, sizes, options, cases);
    if (name == kMoe) RETURN_IF_ERROR(AddMoe(options, cases));
    for (const FabricCollectiveName& named : FabricCollectives()) {
      if (name == named.name) AddCollective(named, sizes, options, cases);
    }
  }
  return cases;
}

std::string EncodeFigures(const FabricFigures& f) {
  return absl::StrFormat("figures %d %.17g %.17g %.17g %.17g %.17g %.17g %.17g %.17g", f.calls,
                         f.min, f.p50, f.p90, f.p99, f.max, f.mean, f.bytes, f.messages);
}

absl::StatusOr<FabricFigures> DecodeFigures(absl::string_view line) {
  const std::vector<absl::string_view> words = absl::StrSplit(line, ' ');
  FabricFigures f;
  double* const values[] = {&f.min, &f.p50,  &f.p90,   &f.p99,
                            &f.max, &f.mean, &f.bytes, &f.messages};
  bool good = words.size() == 2 + std::size(values) && words[0] == "figures" &&
              absl::SimpleAtoi(words[1], &f.calls);
  for (size_t i = 0; good && i < std::size(values); ++i) {
    good = absl::SimpleAtod(words[i + 2], values[i]);
  }
  if (!good) return absl::InternalError(line);
  return f;
}

absl::StatusOr<FabricFigures> RunFabricCase(ProcessRank& rank, const FabricCase& c) {
  FabricFigures figures;
  switch (c.kind) {
    case FabricCaseKind::kPingPong:
    case FabricCaseKind::kStream: {
      ASSIGN_OR_RETURN(figures, RunPair(rank, c));
      break;
    }
    case FabricCaseKind::kCollective: {
      ASSIGN_OR_RETURN(figures, RunCollective(rank, c));
      break;
    }
    case FabricCaseKind::kMoe: {
      ASSIGN_OR_RETURN(figures, RunMoe(rank, c));
      break;
    }
  }
  // All ranks go on together: those outside of a pair have slept meanwhile.
  float nothing = 0;
  RETURN_IF_ERROR(rank.fabric()->AllReduceSum(rank.Whole(), {&nothing, 1},
                                              {"bench_barrier", -1, absl::Minutes(10)}));
  return figures;
}

}  // namespace conclave
