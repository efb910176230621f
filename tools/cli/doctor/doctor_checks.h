// The checks of `doctor`: each judges facts and says what was found, why it matters and what to do.
// Failed: something cannot work. Warning: it works, but slowly or not for long. Pure functions of
// values; any thread.
#pragma once

#include <string>
#include <vector>

#include "tools/cli/doctor/doctor_facts.h"

namespace conclave {

enum class CheckState { kOk, kWarning, kFailed };

// "ok", "warning", "failed".
const char* CheckStateName(CheckState state);

struct DoctorCheck {
  std::string name;  // "shared memory"
  CheckState state = CheckState::kOk;
  std::string found;
  std::string why;     // it matters
  std::string remedy;  // empty when ok
  bool operator==(const DoctorCheck&) const = default;
};

// All of this machine's, in a fixed order.
std::vector<DoctorCheck> CheckMachine(const MachineFacts& facts);

// Of one host of a --hosts file, as asked by a remote shell.
struct HostAnswer {
  std::string host;
  std::string error;  // empty: its doctor answered
  double round_trip_seconds = 0;
  double clock_ahead_seconds = 0;  // of this machine's, give or take half the round trip
  std::string ucx;
  std::vector<std::string> failed;    // names of its checks
  std::vector<std::string> warnings;  // likewise
};
std::vector<DoctorCheck> CheckHosts(const std::vector<HostAnswer>& hosts,
                                    const std::string& ucx_here);

// A running coordinator.
struct CoordinatorAnswer {
  std::string url;
  std::string error;  // empty: it answered
  double round_trip_seconds = 0;
  std::string state;  // of the model, "serving"
  int workers = 0;
  std::vector<std::string> lost;      // names of workers that are not there
  std::vector<std::string> versions;  // different ones of the workers
};
DoctorCheck CheckCoordinator(const CoordinatorAnswer& answer);

}  // namespace conclave
