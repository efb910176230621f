// exchange_bench: the MoE exchange between real processes on hosts with links of a given rate,
// naive against PCC and two-level, over the UCX fabric. Prints a table; --json writes what
// tools/report reads.
// The batch is the whole stage's (exchange_case.h): both schedules of a grid move the same tokens.
// A point's time is that of its slowest rank from a barrier to the end of the combine, the median
// of the iterations.
#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "tests/hosts/exchange_case.h"
#include "tests/hosts/hooked_fabric.h"
#include "tests/hosts/host_net.h"
#include "tests/hosts/rank_process.h"

namespace conclave {
namespace {

using Clock = std::chrono::steady_clock;
constexpr absl::Duration kPatience = absl::Seconds(300);  // for one point

struct Flags {
  int hosts = 8;
  int ranks_per_host = 2;
  double rate_mbit = 200;
  std::vector<int> ranks = {16};
  std::vector<int> tp = {1, 2, 4};
  std::vector<int> tokens = {64};
  std::vector<std::string> schedules = {"naive", "pcc", "two-level"};
  int hidden = 7168;
  int top_k = 8;
  int experts = 256;
  int iterations = 15;
  uint64_t seed = 1;
  std::string json;
};

struct Times {
  std::vector<double> total;   // [iterations] seconds
  std::vector<double> gather;  // the part of it in the tp group's gather
};

double Since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

absl::StatusOr<Times> RunPoint(Fabric& fabric, const ExchangeCase& what, int iterations) {
  double gather = 0;  // PCC and two-level
  Clock::time_point began;
  HookedFabric hooked(fabric, [&](const FabricOp& op, HookedFabric::Moment moment) {
    if (absl::string_view(op.name) != "moe_gather") return;
    if (moment == HookedFabric::Moment::kBefore) began = Clock::now();
    if (moment == HookedFabric::Moment::kAfter) gather += Since(began);
  });
  FabricGroup whole;
  for (int rank = 0; rank < what.ranks; ++rank) whole.ranks.push_back(rank);
  whole.index = fabric.rank();
  ExchangeRun run(hooked, what);
  Times times;
  for (int i = -1; i < iterations; ++i) {
    float barrier = 0;
    RETURN_IF_ERROR(fabric.AllReduceSum(whole, absl::MakeSpan(&barrier, 1),
                                        {"bench_barrier", -1, absl::Seconds(20)}));
    gather = 0;
    const Clock::time_point start = Clock::now();
    RETURN_IF_ERROR(run.Dispatch());
    if (i < 0) run.Compute();
    RETURN_IF_ERROR(run.Combine());
    const double total = Since(start);
    if (i < 0) {  // the first makes connections and grows buffers
      RETURN_IF_ERROR(run.Check());
      continue;
    }
    times.total.push_back(total);
    times.gather.push_back(gather);
  }
  RETURN_IF_ERROR(run.Check());
  return times;
}

// A child: joins a fabric and runs points on it until it is told to end.
void RankBody(RankLine& line) {
  std::unique_ptr<Fabric> fabric;
  while (true) {
    const auto said = line.Hear(kPatience);
    if (!said.ok() || *said == "end") break;
    if (*said == "join") {
      auto joined = JoinFabric(line);
      CHECK(joined.ok()) << joined.status();
      fabric = *std::move(joined);
      continue;
    }
    const std::pair<std::string, std::string> words =
        absl::StrSplit(*said, absl::MaxSplits(' ', 1));
    int iterations = 0;
    CHECK(absl::SimpleAtoi(words.first, &iterations));
    const auto what = ParseExchangeCase(words.second);
    CHECK(what.ok()) << what.status();
    const auto times = RunPoint(*fabric, *what, iterations);
    const std::string answer =
        times.ok() ? absl::StrCat("ok|", absl::StrJoin(times->total, " "), "|",
                                  absl::StrJoin(times->gather, " "))
                   : times.status().ToString();
    if (!line.Say(answer).ok()) break;
  }
}

std::vector<double> Numbers(absl::string_view text) {
  std::vector<double> numbers;
  for (const absl::string_view word : absl::StrSplit(text, ' ', absl::SkipEmpty())) {
    numbers.push_back(0);
    CHECK(absl::SimpleAtod(word, &numbers.back()));
  }
  return numbers;
}

double Median(std::vector<double> values) {
  CHECK(!values.empty());
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Keeps the larger of each iteration.
void KeepSlowest(const std::vector<double>& times, std::vector<double>& slowest) {
  slowest.resize(times.size(), 0);
  for (size_t i = 0; i < times.size(); ++i) slowest[i] = std::max(slowest[i], times[i]);
}

class Bench {
 public:
  explicit Bench(const Flags& flags) : flags_(flags) {}

  absl::Status Run() {
    HostNetOptions options;
    options.hosts = flags_.hosts;
    options.link.bits_per_second = static_cast<int64_t>(flags_.rate_mbit * 1e6);
    ASSIGN_OR_RETURN(net_, HostNet::Create(options));
    std::printf("%d hosts x %d ranks, links of %.0f Mbit/s, %d columns, top %d of %d experts\n",
                flags_.hosts, flags_.ranks_per_host, flags_.rate_mbit, flags_.hidden, flags_.top_k,
                flags_.experts);
    std::printf("%6s %3s %7s %9s %9s %9s %9s %12s %6s\n", "ranks", "tp", "tokens", "", "median ms",
                "min ms", "gather ms", "bytes/link", "ratio");
    for (const int ranks : flags_.ranks) RETURN_IF_ERROR(RunWorld(ranks));
    return Write();
  }

 private:
  absl::Status RunWorld(int ranks) {
    std::vector<std::unique_ptr<RankProcess>> processes;
    std::vector<FabricMember> members;
    for (int rank = 0; rank < ranks; ++rank) {
      const int host = rank / flags_.ranks_per_host;
      if (host >= flags_.hosts) {
        return absl::InvalidArgumentError(absl::StrCat("--ranks ", ranks, ": ", flags_.hosts,
                                                       " hosts of ", flags_.ranks_per_host,
                                                       " ranks hold fewer"));
      }
      ASSIGN_OR_RETURN(auto process,
                       RankProcess::Start([&] { return net_->Enter(host); }, RankBody));
      processes.push_back(std::move(process));
      members.push_back({processes.back().get(), net_->Name(host)});
    }
    RETURN_IF_ERROR(JoinMembers(members, ranks));
    for (const int tokens : flags_.tokens) {
      for (const int tp : flags_.tp) {
        if (ranks % tp != 0) continue;
        ExchangeCase what;
        what.ranks = ranks;
        what.tp = tp;
        what.tokens = tokens;
        what.hidden = flags_.hidden;
        what.top_k = flags_.top_k;
        what.experts = flags_.experts;
        what.seed = flags_.seed;
        what.timeout = absl::Seconds(30);
        what.ranks_per_host = flags_.ranks_per_host;
        double naive = 0;
        for (const std::string& schedule : flags_.schedules) {
          ASSIGN_OR_RETURN(what.kind, ParseExchangeKind(schedule));
          RETURN_IF_ERROR(Measure(what, processes, naive));
        }
      }
    }
    for (const auto& process : processes) RETURN_IF_ERROR(process->line().Say("end"));
    for (const auto& process : processes) {
      const std::string end = process->AwaitEnd(absl::Seconds(20));
      if (end != "exit 0") return absl::InternalError(absl::StrCat("a rank ended: ", end));
    }
    return absl::OkStatus();
  }

  // `naive`: its median in seconds, set by that schedule and compared with by the others.
  absl::Status Measure(const ExchangeCase& what,
                       const std::vector<std::unique_ptr<RankProcess>>& processes, double& naive) {
    for (const auto& process : processes) {
      RETURN_IF_ERROR(
          process->line().Say(absl::StrCat(flags_.iterations, " ", what.ToString())));
    }
    std::vector<double> total, gather;
    for (size_t rank = 0; rank < processes.size(); ++rank) {
      ASSIGN_OR_RETURN(const std::string said, processes[rank]->line().Hear(kPatience));
      const std::vector<std::string> parts = absl::StrSplit(said, '|');
      if (parts[0] != "ok") return absl::InternalError(absl::StrCat("rank ", rank, ": ", said));
      KeepSlowest(Numbers(parts[1]), total);
      KeepSlowest(Numbers(parts[2]), gather);
    }
    const ExchangeDemand demand = DemandOf(what);
    const double median = Median(total), least = *std::min_element(total.begin(), total.end());
    if (what.kind == ExchangeKind::kNaive) naive = median;
    std::printf("%6d %3d %7d %9s %9.2f %9.2f %9.2f %12lld %6.2f\n", what.ranks, what.tp,
                what.tokens, ExchangeKindName(what.kind), median * 1e3, least * 1e3,
                Median(gather) * 1e3, static_cast<long long>(demand.link_bytes), naive / median);
    std::fflush(stdout);
    points_.push_back({{"ranks", what.ranks},
                       {"tp", what.tp},
                       {"schedule", ExchangeKindName(what.kind)},
                       {"tokens", what.tokens},
                       {"messages", demand.messages},
                       {"link_bytes", demand.link_bytes},
                       {"seconds", median},
                       {"seconds_min", least},
                       {"gather_seconds", Median(gather)}});
    return absl::OkStatus();
  }

  absl::Status Write() {
    if (flags_.json.empty()) return absl::OkStatus();
    const boost::json::object document = {
        {"bench", "moe_exchange"},
        {"hosts", flags_.hosts},
        {"ranks_per_host", flags_.ranks_per_host},
        {"link_bits_per_second", flags_.rate_mbit * 1e6},
        {"hidden", flags_.hidden},
        {"top_k", flags_.top_k},
        {"experts", flags_.experts},
        {"iterations", flags_.iterations},
        {"points", points_}};
    std::ofstream out(flags_.json);
    out << boost::json::serialize(document) << "\n";
    out.close();
    if (!out) return absl::UnavailableError(absl::StrCat("cannot write --json ", flags_.json));
    return absl::OkStatus();
  }

  const Flags flags_;
  std::unique_ptr<HostNet> net_;
  boost::json::array points_;
};

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("MoE exchange between processes on rate-limited hosts: naive, PCC, two-level.\n"
               "example: exchange_bench --tp 1,2,4 --json exchange.json");
  app.add_option("--hosts", flags.hosts, "hosts (network namespaces)")->capture_default_str();
  app.add_option("--ranks-per-host", flags.ranks_per_host)->capture_default_str();
  app.add_option("--rate-mbit", flags.rate_mbit, "of each link, each way")->capture_default_str();
  app.add_option("--ranks", flags.ranks, "sizes of the world")->delimiter(',');
  app.add_option("--tp", flags.tp, "tensor parallel degrees")->delimiter(',');
  app.add_option("--tokens", flags.tokens, "tokens of the whole batch")->delimiter(',');
  app.add_option("--schedules", flags.schedules, "the first is what ratios are of")
      ->delimiter(',');
  app.add_option("--hidden", flags.hidden)->capture_default_str();
  app.add_option("--top-k", flags.top_k)->capture_default_str();
  app.add_option("--experts", flags.experts)->capture_default_str();
  app.add_option("--iterations", flags.iterations)->check(CLI::Range(1, 1000));
  app.add_option("--seed", flags.seed)->capture_default_str();
  app.add_option("--json", flags.json, "file to write");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Bench(flags).Run();
  if (status.ok()) return 0;
  std::cerr << "exchange_bench: " << status.message() << "\n";
  return 1;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
