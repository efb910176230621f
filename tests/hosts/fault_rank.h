// FaultRank: what a process of fault_rounds does: it joins fabrics, runs exchanges on them until
// one fails, and tells how it failed. As the victim of a round it says when it is in the phase that
// the fault shall strike. Runs in a child, on its one thread.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "tests/hosts/fault_plan.h"
#include "tests/hosts/rank_process.h"

namespace conclave {

// The words of the parent, beside "join" (rank_process.h) and "end".
std::string FaultyWord(const FaultPlan& plan, bool victim);
std::string CleanWord(const ExchangeCase& what);

// A victim's word that it is in the phase; it goes on at once in the midst of an operation, else
// when it hears kGoOn.
inline constexpr char kAtPhase[] = "at";
inline constexpr char kGoOn[] = "go";

// How a rank's exchange failed. Times: microseconds of the machine's monotonic clock.
struct FaultReport {
  int64_t op_started_us = 0;
  int64_t reported_us = 0;
  std::string op;
  std::vector<int> blamed;
  std::string text;
};
absl::StatusOr<FaultReport> ParseFaultReport(const std::string& text);

int64_t MonotonicMicroseconds();

void RunFaultRank(RankLine& line);

}  // namespace conclave
