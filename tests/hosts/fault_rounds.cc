#include "tests/hosts/fault_rounds.h"

#include <dirent.h>
#include <signal.h>

#include <algorithm>
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "tests/hosts/strike.h"

namespace conclave {
namespace {

// For what is not measured: starting, connecting, good exchanges, and reports long overdue.
constexpr absl::Duration kPatience = absl::Seconds(20);

int DescriptorCount(pid_t pid) {
  DIR* folder = opendir(absl::StrCat("/proc/", pid, "/fd").c_str());
  if (folder == nullptr) return 0;
  int count = 0;
  while (readdir(folder) != nullptr) ++count;
  closedir(folder);
  return count - 2;  // "." and ".."
}

bool Contains(const std::vector<int>& ranks, int rank) {
  return std::find(ranks.begin(), ranks.end(), rank) != ranks.end();
}

// Nothing happens that could be waited for: a fault comes when it likes.
void SpinFor(int64_t microseconds) {
  const int64_t until = MonotonicMicroseconds() + microseconds;
  while (MonotonicMicroseconds() < until) {
  }
}

}  // namespace

FaultRounds::FaultRounds(const FaultRoundsOptions& options, std::unique_ptr<HostNet> net)
    : options_(options), net_(std::move(net)) {}

absl::StatusOr<std::unique_ptr<FaultRounds>> FaultRounds::Create(
    const FaultRoundsOptions& options) {
  const FaultWorld& world = options.world;
  if (world.ranks < 4 || world.ranks % 4 != 0 || world.ranks_per_host < 1 ||
      world.ranks % world.ranks_per_host != 0 || world.ranks == world.ranks_per_host) {
    return absl::InvalidArgumentError(
        absl::StrCat("ranks=", world.ranks, " on hosts of ", world.ranks_per_host,
                     ": give a multiple of 4 on two hosts or more"));
  }
  HostNetOptions hosts;
  hosts.hosts = world.ranks / world.ranks_per_host;
  hosts.link.bits_per_second = static_cast<int64_t>(options.link_mbit * 1e6);
  ASSIGN_OR_RETURN(auto net, HostNet::Create(hosts));
  return std::unique_ptr<FaultRounds>(new FaultRounds(options, std::move(net)));
}

absl::Status FaultRounds::Spawn(int rank) {
  const int host = HostOf(rank);
  ASSIGN_OR_RETURN(processes_[rank],
                   RankProcess::Start([&] { return net_->Enter(host); }, RunFaultRank));
  return absl::OkStatus();
}

absl::Status FaultRounds::Join(const std::vector<int>& ranks) {
  std::vector<FabricMember> members;
  for (const int rank : ranks) {
    members.push_back({processes_[rank].get(), net_->Name(HostOf(rank))});
  }
  return JoinMembers(members, ++epoch_, kPatience);
}

absl::StatusOr<FaultRoundsResult> FaultRounds::Run() {
  processes_.resize(options_.world.ranks);
  for (int rank = 0; rank < options_.world.ranks; ++rank) RETURN_IF_ERROR(Spawn(rank));
  std::vector<pid_t> first(processes_.size());
  std::vector<int> descriptors(processes_.size());
  for (round_ = options_.first; round_ < options_.first + options_.rounds; ++round_) {
    RETURN_IF_ERROR(RunRound(DrawFault(options_.world, options_.seed, round_)));
    ++result_.rounds;
    for (size_t rank = 0; rank < processes_.size(); ++rank) {
      const pid_t pid = processes_[rank]->pid();
      const int count = DescriptorCount(pid);
      if (first[rank] == pid) {
        result_.descriptors_first = std::max(result_.descriptors_first, descriptors[rank]);
        result_.descriptors_last = std::max(result_.descriptors_last, count);
      } else {
        first[rank] = pid;
        descriptors[rank] = count;
      }
    }
  }
  for (const auto& process : processes_) RETURN_IF_ERROR(process->line().Say("end"));
  for (size_t rank = 0; rank < processes_.size(); ++rank) {
    const std::string end = processes_[rank]->AwaitEnd(kPatience);
    if (end != "exit 0") Violation(static_cast<int>(rank), absl::StrCat("ends with ", end));
  }
  return std::move(result_);
}

void FaultRounds::Violation(int rank, const std::string& what) {
  result_.violations.push_back(
      absl::StrCat("seed ", options_.seed, " round ", round_, " rank ", rank, ": ", what));
  if (options_.verbose) std::printf("  VIOLATION %s\n", result_.violations.back().c_str());
}

absl::Status FaultRounds::RunRound(const FaultPlan& plan) {
  if (options_.verbose) {
    std::printf("round %d: %s of rank %d %s, %d good before, after %d us, %s: %s\n", round_,
                Name(plan.kind), plan.victim, Name(plan.phase), plan.good_before, plan.delay_us,
                plan.left_out ? "left out" : "replaced", plan.exchange.ToString().c_str());
    std::fflush(stdout);
  }
  std::vector<int> all;
  for (int rank = 0; rank < options_.world.ranks; ++rank) all.push_back(rank);
  RETURN_IF_ERROR(Join(all));
  for (const int rank : all) {
    RETURN_IF_ERROR(processes_[rank]->line().Say(FaultyWord(plan, rank == plan.victim)));
  }
  RETURN_IF_ERROR(StrikeInPhase(plan));
  HearReports(plan);
  RETURN_IF_ERROR(Heal(plan.kind, *net_, HostOf(plan.victim), *processes_[plan.victim]));
  return RunNextEpoch(plan);
}

absl::Status FaultRounds::StrikeInPhase(const FaultPlan& plan) {
  RankProcess& victim = *processes_[plan.victim];
  ASSIGN_OR_RETURN(const std::string said, victim.line().Hear(kPatience));
  if (said != kAtPhase) {
    return absl::InternalError(
        absl::StrCat("round ", round_, ": an exchange fails before the fault: ", said));
  }
  SpinFor(plan.delay_us);
  struck_us_ = MonotonicMicroseconds();
  RETURN_IF_ERROR(Strike(plan.kind, *net_, HostOf(plan.victim), victim));
  const bool ended = plan.kind == FaultKind::kKill || plan.kind == FaultKind::kHalfOpen;
  return ended ? absl::OkStatus() : victim.line().Say(kGoOn);
}

void FaultRounds::HearReports(const FaultPlan& plan) {
  const std::vector<int> victims = plan.Victims(options_.world.ranks_per_host);
  for (int rank = 0; rank < options_.world.ranks; ++rank) {
    const bool victim = Contains(victims, rank);
    const bool cut_off = plan.kind == FaultKind::kLinkDown || plan.kind == FaultKind::kBlackHole;
    if (victim && !cut_off) continue;
    // Ranks that were cut off fail as well, and must neither hang nor die of it; whom they blame is
    // their own affair.
    const auto said = processes_[rank]->line().Hear(kPatience);
    if (!said.ok()) {
      Violation(rank, absl::StrCat("no report: ", said.status().ToString(), ", ",
                                   processes_[rank]->AwaitEnd(absl::ZeroDuration())));
      processes_[rank]->Signal(SIGKILL);  // the next epoch has another in its place
      continue;
    }
    const auto report = ParseFaultReport(*said);
    if (!report.ok()) {
      Violation(rank, report.status().ToString());
    } else if (!victim) {
      CheckReport(plan, rank, *report);
    }
  }
}

void FaultRounds::CheckReport(const FaultPlan& plan, int rank, const FaultReport& report) {
  const double waited = static_cast<double>(report.reported_us - report.op_started_us) * 1e-6;
  const double since = static_cast<double>(report.reported_us - struck_us_) * 1e-6;
  ++result_.reports;
  Detection& detection = result_.detections[{plan.kind, plan.phase}];
  detection.waited.push_back(waited);
  detection.since_fault.push_back(since);
  if (options_.verbose) {
    std::printf("  rank %d after %.3f s, waited %.3f s: %s\n", rank, since, waited,
                report.text.c_str());
  }
  if (waited > absl::ToDoubleSeconds(options_.world.timeout + options_.tolerance)) {
    Violation(rank, absl::StrCat("waited ", waited, " s in ", report.op));
  }
  const std::vector<int> victims = plan.Victims(options_.world.ranks_per_host);
  const bool right = !report.blamed.empty() &&
                     std::all_of(report.blamed.begin(), report.blamed.end(),
                                 [&](int blamed) { return Contains(victims, blamed); });
  if (!right) {
    Violation(rank, absl::StrCat(Name(plan.kind), " ", Name(plan.phase), ": blames ranks [",
                                 absl::StrJoin(report.blamed, ","), "], not [",
                                 absl::StrJoin(victims, ","), "]: ", report.text));
  }
}

absl::Status FaultRounds::RunNextEpoch(const FaultPlan& plan) {
  const std::vector<int> victims = plan.Victims(options_.world.ranks_per_host);
  std::vector<int> members;
  for (int rank = 0; rank < options_.world.ranks; ++rank) {
    if (processes_[rank]->AwaitEnd(absl::ZeroDuration()) != "running") {
      RETURN_IF_ERROR(Spawn(rank));
    }
    if (!plan.left_out || !Contains(victims, rank)) members.push_back(rank);
  }
  RETURN_IF_ERROR(Join(members));
  ExchangeCase what = plan.exchange;
  what.ranks = static_cast<int>(members.size());
  if (what.ranks % what.tp != 0) what.tp = 1;
  what.timeout = kPatience;
  for (const int rank : members) RETURN_IF_ERROR(processes_[rank]->line().Say(CleanWord(what)));
  for (const int rank : members) {
    const auto said = processes_[rank]->line().Hear(kPatience * 2);
    if (!said.ok() || *said != "ok") {
      Violation(rank, absl::StrCat("the next epoch: ", said.ok() ? *said
                                                                 : said.status().ToString()));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
