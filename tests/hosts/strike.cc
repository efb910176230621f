#include "tests/hosts/strike.h"

#include <dirent.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

std::vector<int> OpenFiles(pid_t pid) {
  std::vector<int> files;
  DIR* folder = opendir(absl::StrCat("/proc/", pid, "/fd").c_str());
  if (folder == nullptr) return files;
  while (const dirent* entry = readdir(folder)) {
    int fd = 0;
    if (absl::SimpleAtoi(entry->d_name, &fd)) files.push_back(fd);
  }
  closedir(folder);
  return files;
}

// True for a TCP socket with a peer.
bool IsTcpConnection(int fd) {
  int protocol = 0;
  socklen_t size = sizeof(protocol);
  sockaddr_storage peer;
  socklen_t peer_size = sizeof(peer);
  return getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 &&
         protocol == IPPROTO_TCP &&
         getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &peer_size) == 0;
}

// Ends the process such that its connections end without a FIN or a reset: sockets in repair mode
// are closed in silence (tcp(7), TCP_REPAIR, as used to move connections to another machine).
absl::Status VanishWithoutAWord(RankProcess& victim) {
  victim.Signal(SIGSTOP);
  const int process = static_cast<int>(syscall(SYS_pidfd_open, victim.pid(), 0));
  CHECK_GE(process, 0);
  std::vector<int> sockets;
  absl::Status status;
  for (const int file : OpenFiles(victim.pid())) {
    const int copy = static_cast<int>(syscall(SYS_pidfd_getfd, process, file, 0));
    if (copy < 0) continue;
    sockets.push_back(copy);
    const int on = 1;
    if (IsTcpConnection(copy) &&
        setsockopt(copy, IPPROTO_TCP, TCP_REPAIR, &on, sizeof(on)) != 0) {
      status = absl::InternalError(absl::StrCat("TCP_REPAIR: ", std::strerror(errno)));
    }
  }
  victim.Signal(SIGKILL);
  for (const int socket : sockets) close(socket);
  close(process);
  return status;
}

}  // namespace

absl::Status Strike(FaultKind kind, HostNet& net, int host, RankProcess& victim) {
  switch (kind) {
    case FaultKind::kKill:
      victim.Signal(SIGKILL);
      return absl::OkStatus();
    case FaultKind::kStop:
      victim.Signal(SIGSTOP);
      return absl::OkStatus();
    case FaultKind::kLinkDown:
      return net.SetLinkUp(host, false);
    case FaultKind::kBlackHole:
      RETURN_IF_ERROR(net.SetBlackHole(host, LinkDirection::kIn, true));
      return net.SetBlackHole(host, LinkDirection::kOut, true);
    case FaultKind::kHalfOpen:
      return VanishWithoutAWord(victim);
  }
  LOG(FATAL) << "no such fault";
}

absl::Status Heal(FaultKind kind, HostNet& net, int host, RankProcess& victim) {
  if (kind == FaultKind::kStop) victim.Signal(SIGKILL);
  if (kind == FaultKind::kLinkDown || kind == FaultKind::kBlackHole) return net.Restore(host);
  return absl::OkStatus();
}

}  // namespace conclave
