// A world of real processes over UCX, on this machine: for tests, `bench fabric` and `doctor`. The
// parent, which never starts UCX itself, forks one child for each rank, passes the addresses
// around, gives the word to go on, and collects lines of text from each. Every wait has a deadline;
// children that are left are killed, also when the parent dies. One thread uses it.
#pragma once

#include <sys/types.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "comm/fabric/fabric.h"
#include "comm/fabric/ucx_fabric.h"

namespace conclave {

struct ProcessWorldOptions {
  bool one_node = true;  // else each rank counts as a node of its own: no shared memory
  UcxOptions ucx;
};

// What a child has: its fabric, and its line to the parent.
class ProcessRank {
 public:
  ProcessRank(int rank, int ranks, int fd) : rank_(rank), ranks_(ranks), fd_(fd) {}

  int rank() const { return rank_; }
  int ranks() const { return ranks_; }
  FabricGroup Whole() const;
  std::unique_ptr<Fabric>& fabric() { return fabric_; }
  // To the parent's Receive.
  void Say(const std::string& text);
  // Waits for the parent's GoOn.
  void AwaitGoOn();

 private:
  friend class ProcessWorld;
  absl::Status Connect(const ProcessWorldOptions& options);

  const int rank_;
  const int ranks_;
  const int fd_;
  std::unique_ptr<Fabric> fabric_;
};

class ProcessWorld {
 public:
  using Body = std::function<void(ProcessRank&)>;

  // Forks `ranks` children that connect, run `body` and exit. What a child could not do (no
  // transport of UCX, no room in /dev/shm) comes back with its rank.
  static absl::StatusOr<std::unique_ptr<ProcessWorld>> Start(int ranks,
                                                             const ProcessWorldOptions& options,
                                                             const Body& body);
  // For tests: the same, where failing to start is a crash.
  ProcessWorld(int ranks, bool one_node, const Body& body);
  ~ProcessWorld();
  ProcessWorld(const ProcessWorld&) = delete;
  ProcessWorld& operator=(const ProcessWorld&) = delete;

  // The next text that `rank` says; DeadlineExceeded after `timeout`, Unavailable when the child
  // has ended.
  absl::StatusOr<std::string> Receive(int rank, absl::Duration timeout = absl::Seconds(20));
  void GoOn(int rank);
  // Sends `signal` and waits until it took effect: the child has ended, or stopped.
  void Signal(int rank, int signal);
  // True when the child ends by itself, with code 0, within `timeout`.
  bool EndsWell(int rank, absl::Duration timeout = absl::Seconds(20));
  pid_t pid(int rank) const { return children_[rank].pid; }

 private:
  struct Child {
    pid_t pid = -1;
    int fd = -1;
    bool ended = false;
  };
  ProcessWorld() = default;
  absl::Status Launch(int ranks, const ProcessWorldOptions& options, const Body& body);
  // What a child says next while it starts; its error as a status.
  absl::StatusOr<std::string> ReceiveWhileStarting(int rank);

  std::vector<Child> children_;
};

}  // namespace conclave
