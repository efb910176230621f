// ProcessStamp: which process a fabric address belongs to, and whether it shares memory with this
// one. A ProcessWatch is a descriptor that becomes readable when that process ends, so that a
// killed peer is noticed at once rather than at the deadline. Values of the machine read once; a
// watch is owned by one thread.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"

namespace conclave {

struct ProcessStamp {
  int64_t pid = 0;
  uint64_t start_ticks = 0;  // with the pid names a process uniquely since boot
  uint64_t boot = 0;         // hash of the boot id
  uint64_t namespaces = 0;   // hash of the pid and ipc namespaces
  bool operator==(const ProcessStamp&) const = default;

  // True when shared memory of `other`'s process can be mapped: the same boot and namespaces.
  bool SharesMemoryWith(const ProcessStamp& other) const {
    return boot == other.boot && namespaces == other.namespaces;
  }
};

ProcessStamp OwnProcessStamp();

// FNV-1a: checks that an address arrived whole.
uint64_t Fnv1a(const void* data, size_t size);

class ProcessWatch {
 public:
  ProcessWatch() = default;
  ProcessWatch(ProcessWatch&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  ProcessWatch& operator=(ProcessWatch&& other) noexcept;
  ~ProcessWatch();

  // NotFound when the process has ended; an empty watch (fd -1) when the kernel has no pidfd.
  static absl::StatusOr<ProcessWatch> Open(const ProcessStamp& process);

  int fd() const { return fd_; }

 private:
  explicit ProcessWatch(int fd) : fd_(fd) {}
  int fd_ = -1;
};

}  // namespace conclave
