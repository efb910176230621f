// RankProcess: a child process that is one rank of a fabric, in a host of its own choosing, with a
// line of texts to its parent; and the steps by which such processes become one fabric, epoch after
// epoch, though some of them are replaced. The parent never starts UCX itself, since it forks. A
// child that its parent leaves is killed with it. One thread each.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric.h"

namespace conclave {

// An end of the line between parent and child: texts of less than 64 KiB, in order.
class RankLine {
 public:
  explicit RankLine(int fd) : fd_(fd) {}
  ~RankLine();
  RankLine(const RankLine&) = delete;
  RankLine& operator=(const RankLine&) = delete;

  // Unavailable when the other end is gone.
  absl::Status Say(const std::string& text);
  // DeadlineExceeded when none comes in time, Unavailable when the other end is gone.
  absl::StatusOr<std::string> Hear(absl::Duration timeout);
  int fd() const { return fd_; }

 private:
  const int fd_;
};

class RankProcess {
 public:
  // Forks a child that calls `enter` (such as HostNet::Enter), runs `body` and exits.
  static absl::StatusOr<std::unique_ptr<RankProcess>> Start(
      const std::function<absl::Status()>& enter, const std::function<void(RankLine&)>& body);
  ~RankProcess();  // kills what is left
  RankProcess(const RankProcess&) = delete;
  RankProcess& operator=(const RankProcess&) = delete;

  pid_t pid() const { return pid_; }
  RankLine& line() { return line_; }
  // Sends `signal` and waits until a SIGKILL or SIGSTOP took effect.
  void Signal(int signal);
  // "exit 0", "signal 9", "running"; waits up to `timeout` for the end.
  std::string AwaitEnd(absl::Duration timeout);

 private:
  RankProcess(pid_t pid, int fd) : pid_(pid), line_(fd) {}
  const pid_t pid_;
  RankLine line_;
  std::string end_ = "running";
};

// A member of the next fabric, in the order of the ranks.
struct FabricMember {
  RankProcess* process = nullptr;
  std::string node;  // members of one node share memory
};

// The parent's part: sends each member the word "join", passes addresses around, and waits until
// all have connected.
absl::Status JoinMembers(const std::vector<FabricMember>& members, uint64_t epoch,
                         absl::Duration timeout = absl::Seconds(20));

// The child's part, after the word "join".
absl::StatusOr<std::unique_ptr<Fabric>> JoinFabric(RankLine& line);

}  // namespace conclave
