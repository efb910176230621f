// RunCommand: a short program of the system (ip, tc) run to its end, its output returned. Bounded
// in time and output; a program that runs over is killed. Any thread.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace conclave {

struct CommandOptions {
  std::string input;  // its standard input
  absl::Duration timeout = absl::Seconds(20);
};

// What it wrote to standard output, at most 1 MiB. NotFound when there is no such program, Internal
// with the command and what it said when it fails, DeadlineExceeded when it was killed.
absl::StatusOr<std::string> RunCommand(const std::vector<std::string>& argv,
                                       const CommandOptions& options = {});

}  // namespace conclave
