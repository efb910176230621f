// The part of `doctor` that looks beyond this machine: the hosts of a file, by running their own
// doctor through a remote shell, and a running coordinator, by its status. Blocking, each with a
// deadline; the main thread.
#pragma once

#include <atomic>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "tools/cli/doctor/doctor_checks.h"

namespace conclave {

// One host a line, as the remote shell takes it ("node1", "me@10.0.0.7"); blank lines and what
// follows a # do not count. InvalidArgument names the line: a blank within, or a host twice.
absl::StatusOr<std::vector<std::string>> ParseHosts(absl::string_view text);

// What a doctor printed with --json, and what `date +%s.%N` did before, into `answer`; its error
// says what is wrong with them. Seconds are of the realtime clock.
struct RemoteClock {
  double asked_at = 0;
  double answered_at = 0;
  std::string answer;  // "1764000000.123456789"
};
void ReadHostAnswer(const RemoteClock& clock, absl::string_view json, HostAnswer& answer);

struct RemoteOptions {
  std::string shell;    // words before the host: "ssh -o BatchMode=yes"
  std::string program;  // conclave's path on the hosts
};
// All at once; in the order of `hosts`. Cancelled when the user interrupts.
absl::StatusOr<std::vector<HostAnswer>> AskHosts(const std::vector<std::string>& hosts,
                                                 const RemoteOptions& options,
                                                 const std::atomic<bool>& cancelled);

// The body of /admin/status, into `answer`.
void ReadCoordinatorAnswer(absl::string_view json, CoordinatorAnswer& answer);

}  // namespace conclave
