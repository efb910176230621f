// Subprocess: one child process of a local cluster: started with the files it needs, ended with it.
// The child receives SIGTERM when the thread that started it dies, so nothing outlives the client.
// Owned by one thread.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace conclave {

class Subprocess {
 public:
  struct Options {
    std::vector<std::string> argv;  // argv[0] is the program's path
    std::string log_path;           // stdout and stderr go there; empty: inherited
    int pass_fd = -1;               // kept open in the child under the same number
    bool own_group = true;  // Ctrl-C at the terminal then reaches only the parent, which stops it
  };
  static absl::StatusOr<Subprocess> Start(const Options& options);

  Subprocess(Subprocess&& other) noexcept;
  Subprocess& operator=(Subprocess&& other) noexcept;
  ~Subprocess();  // kills and reaps

  pid_t pid() const { return pid_; }
  // The exit status once it has ended ("exit 1", "signal 9"), without waiting.
  std::optional<std::string> Ended();
  void Signal(int signal) const;
  // Waits up to `timeout` for the end; true when it came.
  bool Wait(absl::Duration timeout);
  // Waits up to `timeout` for the end; then kills. Returns how it ended.
  std::string WaitOrKill(absl::Duration timeout);

 private:
  explicit Subprocess(pid_t pid) : pid_(pid) {}
  pid_t pid_ = -1;
  std::optional<std::string> ended_;
};

}  // namespace conclave
