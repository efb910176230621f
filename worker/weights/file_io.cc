#include "worker/weights/file_io.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "comm/base/status.h"

namespace conclave {

ReadOnlyFile::~ReadOnlyFile() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<ReadOnlyFile> ReadOnlyFile::Open(const std::string& path) {
  ReadOnlyFile file;
  file.fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (file.fd_ >= 0) return file;
  const std::string message = absl::StrCat("cannot open ", path, ": ", std::strerror(errno));
  if (errno == ENOENT || errno == ENOTDIR) return absl::NotFoundError(message);
  if (errno == EACCES) return absl::PermissionDeniedError(message);
  return absl::UnavailableError(message);
}

absl::Status ReadAt(int fd, const std::string& path, int64_t offset, int64_t bytes, void* out) {
  char* to = static_cast<char*>(out);
  while (bytes > 0) {
    const ssize_t got = pread(fd, to, static_cast<size_t>(bytes), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      return absl::UnavailableError(absl::StrCat("cannot read ", bytes, " bytes at ", offset,
                                                 " of ", path, ": ", std::strerror(errno)));
    }
    if (got == 0) {
      return absl::DataLossError(absl::StrCat(path, " ended ", bytes, " bytes before offset ",
                                              offset + bytes, ": it shrank while being read"));
    }
    to += got;
    offset += got;
    bytes -= got;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> ReadWholeFile(const std::string& path, int64_t bytes_max) {
  ASSIGN_OR_RETURN(const ReadOnlyFile file, ReadOnlyFile::Open(path));
  struct stat info;
  if (fstat(file.fd(), &info) != 0) {
    return absl::UnavailableError(absl::StrCat("cannot stat ", path, ": ", std::strerror(errno)));
  }
  if (!S_ISREG(info.st_mode) || info.st_size > bytes_max) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has ", info.st_size,
                                                   " bytes, or is no file; at most ", bytes_max,
                                                   " bytes are read: check the path"));
  }
  std::string content(info.st_size, '\0');
  RETURN_IF_ERROR(ReadAt(file.fd(), path, 0, info.st_size, content.data()));
  return content;
}

}  // namespace conclave
