#include "comm/fabric/process_stamp.h"

#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

std::string ReadText(const std::string& path) {
  std::ifstream in(path);
  std::stringstream text;
  text << in.rdbuf();
  return text.str();
}

// Field 22 of /proc/PID/stat (proc(5)): start time in clock ticks since boot. The name in field 2
// may hold spaces and parentheses: fields are counted from the last one. 0 when there is no such
// process.
uint64_t StartTicks(int64_t pid) {
  const std::string stat = ReadText(absl::StrCat("/proc/", pid, "/stat"));
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return 0;
  std::istringstream fields(stat.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) fields >> field;
  return std::strtoull(field.c_str(), nullptr, 10);
}

uint64_t NamespaceInode(const char* name) {
  struct stat info;
  return stat(absl::StrCat("/proc/self/ns/", name).c_str(), &info) == 0 ? info.st_ino : 0;
}

}  // namespace

uint64_t Fnv1a(const void* data, size_t size) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (size_t i = 0; i < size; ++i) {
    hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3u;
  }
  return hash;
}

ProcessStamp OwnProcessStamp() {
  ProcessStamp stamp;
  stamp.pid = getpid();
  stamp.start_ticks = StartTicks(stamp.pid);
  const std::string boot = ReadText("/proc/sys/kernel/random/boot_id");
  stamp.boot = Fnv1a(boot.data(), boot.size());
  const uint64_t inodes[] = {NamespaceInode("pid"), NamespaceInode("ipc")};
  stamp.namespaces = Fnv1a(inodes, sizeof(inodes));
  return stamp;
}

ProcessWatch& ProcessWatch::operator=(ProcessWatch&& other) noexcept {
  std::swap(fd_, other.fd_);
  return *this;
}

ProcessWatch::~ProcessWatch() {
  if (fd_ >= 0) close(fd_);
}

absl::StatusOr<ProcessWatch> ProcessWatch::Open(const ProcessStamp& process) {
  const auto gone = absl::NotFoundError(absl::StrCat("process ", process.pid, " has ended"));
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(process.pid), 0));
  if (fd < 0) {
    if (errno == ESRCH) return gone;
    return ProcessWatch();
  }
  ProcessWatch watch(fd);
  // Looked up after the open: the pid cannot be given to another process in between unseen.
  if (StartTicks(process.pid) != process.start_ticks) return gone;
  return watch;
}

}  // namespace conclave
