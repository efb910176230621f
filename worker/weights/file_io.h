// Files that are read by position: an owner of a descriptor, and pread that finishes. Any thread.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave {

class ReadOnlyFile {
 public:
  ReadOnlyFile() = default;
  ReadOnlyFile(ReadOnlyFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  ReadOnlyFile& operator=(ReadOnlyFile&& other) noexcept {
    std::swap(fd_, other.fd_);
    return *this;
  }
  ~ReadOnlyFile();

  // NotFound when there is none, PermissionDenied, or Unavailable.
  static absl::StatusOr<ReadOnlyFile> Open(const std::string& path);

  int fd() const { return fd_; }

 private:
  int fd_ = -1;
};

// Reads exactly `bytes` from `offset`. DataLoss when the file ends before, Unavailable when the
// disk fails.
absl::Status ReadAt(int fd, const std::string& path, int64_t offset, int64_t bytes, void* out);

// A whole file of at most `bytes_max`; InvalidArgument when it is longer.
absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t bytes_max);

}  // namespace conclave
