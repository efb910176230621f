// `conclave doctor`: what this machine has and lacks for Conclave, and with --hosts or --url what
// others do: a table, or JSON. Blocking, a few seconds; called by the main thread.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tools/cli/doctor/doctor_checks.h"

namespace conclave {

struct DoctorOptions {
  std::string hosts_path;
  std::string remote_shell = "ssh -o BatchMode=yes -o ConnectTimeout=5";
  std::string remote_program;  // empty: this program's path
  std::string url;             // of a coordinator; empty: none is asked
  std::string admin_token;     // empty: the one in the state folder
  std::string state_dir;
  bool json = false;
};

// FailedPrecondition counts the checks that failed, after they were printed.
absl::Status RunDoctor(const DoctorOptions& options, const std::atomic<bool>& cancelled);

// The table: a line for each check; why and what to do under those that are not ok.
std::string RenderChecks(const std::vector<DoctorCheck>& checks, bool colours);
// {"host", "ucx", "ok", "checks": [{"name", "state", "found", "why", "remedy"}]}
std::string ChecksJson(const MachineFacts& facts, const std::vector<DoctorCheck>& checks);

}  // namespace conclave
