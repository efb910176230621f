// FaultRounds: rounds of faults on a world of processes over the UCX fabric, on hosts: in each, a
// fault strikes one rank or host at one moment of an MoE exchange; every survivor must report in
// time whom it blames, and blame nobody but the victims; then the same surviving processes make the
// next epoch's fabric, with the victim replaced or left out, and its exchange must be right. One
// thread.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "tests/hosts/fault_plan.h"
#include "tests/hosts/fault_rank.h"
#include "tests/hosts/host_net.h"
#include "tests/hosts/rank_process.h"

namespace conclave {

struct FaultRoundsOptions {
  FaultWorld world;
  int rounds = 25;
  int first = 0;  // round: a seed's rounds can be repeated one by one
  uint64_t seed = 1;
  double link_mbit = 200;
  // What reports may come after the deadline: the machine is shared.
  absl::Duration tolerance = absl::Milliseconds(300);
  bool verbose = false;
};

// Of the reports of survivors, seconds.
struct Detection {
  std::vector<double> since_fault;
  std::vector<double> waited;  // in the operation that failed
};

struct FaultRoundsResult {
  int rounds = 0;
  int reports = 0;
  std::map<std::pair<FaultKind, FaultPhase>, Detection> detections;
  std::vector<std::string> violations;  // one line each
  int descriptors_first = 0;            // of the longest-lived process: after its first round
  int descriptors_last = 0;             // and after its last
};

class FaultRounds {
 public:
  // What HostNet::Create returns.
  static absl::StatusOr<std::unique_ptr<FaultRounds>> Create(const FaultRoundsOptions& options);

  // Errors are those of the harness; what the fabric does wrong is a violation.
  absl::StatusOr<FaultRoundsResult> Run();

 private:
  FaultRounds(const FaultRoundsOptions& options, std::unique_ptr<HostNet> net);
  int HostOf(int rank) const { return rank / options_.world.ranks_per_host; }
  absl::Status Spawn(int rank);
  absl::Status Join(const std::vector<int>& ranks);
  absl::Status RunRound(const FaultPlan& plan);
  absl::Status StrikeInPhase(const FaultPlan& plan);
  void HearReports(const FaultPlan& plan);
  void CheckReport(const FaultPlan& plan, int rank, const FaultReport& report);
  absl::Status RunNextEpoch(const FaultPlan& plan);
  void Violation(int rank, const std::string& what);

  const FaultRoundsOptions options_;
  const std::unique_ptr<HostNet> net_;
  std::vector<std::unique_ptr<RankProcess>> processes_;  // by rank
  uint64_t epoch_ = 0;
  int round_ = 0;
  int64_t struck_us_ = 0;
  FaultRoundsResult result_;
};

}  // namespace conclave
