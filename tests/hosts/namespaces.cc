#include "tests/hosts/namespaces.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "tests/hosts/command.h"

namespace conclave {
namespace {

constexpr char kFolder[] = "/run/netns/";  // where iproute2 keeps them
constexpr char kMark[] = "cnh-";
constexpr uint64_t kNetAdmin = 12, kSysAdmin = 21;  // capabilities(7)

std::vector<std::string> ListFolder(const std::string& path) {
  std::vector<std::string> names;
  DIR* folder = opendir(path.c_str());
  if (folder == nullptr) return names;
  while (const dirent* entry = readdir(folder)) names.push_back(entry->d_name);
  closedir(folder);
  std::sort(names.begin(), names.end());
  return names;
}

// Field 22 of /proc/PID/stat (proc(5)), counted from the end of the name; "" without the process,
// or when it has ended and nobody has asked how yet.
std::string StartTime(absl::string_view pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::stringstream text;
  text << in.rdbuf();
  const std::string stat = text.str();
  const size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return "";
  std::istringstream fields(stat.substr(name_end + 1));
  std::string field;
  for (int i = 3; i <= 22; ++i) {
    fields >> field;
    if (i == 3 && (field == "Z" || field == "X")) return "";
  }
  return field;
}

// True when the name is one of ours and its owner has ended.
bool OwnerHasEnded(const std::string& name) {
  const std::vector<std::string> parts = absl::StrSplit(name, '-');  // cnh-PID-START-rest
  return parts.size() >= 4 && parts[0] == "cnh" && StartTime(parts[1]) != parts[2];
}

void KillProcessesIn(const std::set<ino_t>& namespaces) {
  for (const std::string& entry : ListFolder("/proc")) {
    int pid = 0;
    struct stat info;
    if (!absl::SimpleAtoi(entry, &pid) || pid == getpid()) continue;
    if (stat(absl::StrCat("/proc/", entry, "/ns/net").c_str(), &info) != 0) continue;
    if (namespaces.count(info.st_ino) > 0) kill(pid, SIGKILL);
  }
}

absl::Status Failed(absl::string_view what) {
  return absl::InternalError(absl::StrCat(what, ": ", std::strerror(errno)));
}

}  // namespace

std::string OwnNamespacePrefix() {
  const std::string pid = absl::StrCat(getpid());
  return absl::StrCat(kMark, pid, "-", StartTime(pid), "-");
}

absl::Status CheckNamespaceRights() {
  std::ifstream in("/proc/self/status");
  uint64_t rights = 0;
  for (std::string line; std::getline(in, line);) {
    if (absl::StartsWith(line, "CapEff:")) rights = std::stoull(line.substr(7), nullptr, 16);
  }
  if ((rights >> kNetAdmin & 1) == 0 || (rights >> kSysAdmin & 1) == 0) {
    return absl::PermissionDeniedError(
        "hosts need CAP_NET_ADMIN and CAP_SYS_ADMIN, which this process lacks; run it as root");
  }
  const std::string probe = OwnNamespacePrefix() + "probe";
  ASSIGN_OR_RETURN(std::string made, RunCommand({"ip", "netns", "add", probe}));
  const auto shaped = RunCommand({"tc", "-n", probe, "qdisc", "add", "dev", "lo", "root", "tbf",
                                  "rate", "1gbit", "burst", "64kb", "latency", "10ms"});
  RemoveNamespaces(probe);
  return shaped.status();
}

std::vector<std::string> ListNamespaces(absl::string_view prefix) {
  std::vector<std::string> names = ListFolder(kFolder);
  names.erase(std::remove_if(names.begin(), names.end(),
                             [&](const std::string& name) {
                               return !absl::StartsWith(name, prefix);
                             }),
              names.end());
  return names;
}

void RemoveNamespaces(const std::string& prefix) {
  CHECK(absl::StartsWith(prefix, kMark)) << "not a namespace of ours: " << prefix;
  const std::vector<std::string> names = ListNamespaces(prefix);
  std::set<ino_t> inodes;
  struct stat own, info;
  CHECK_EQ(stat("/proc/self/ns/net", &own), 0);
  for (const std::string& name : names) {
    // A file that nothing is mounted on has another device; and nobody kills its own namespace.
    if (stat(absl::StrCat(kFolder, name).c_str(), &info) != 0) continue;
    if (info.st_dev == own.st_dev && info.st_ino != own.st_ino) inodes.insert(info.st_ino);
  }
  if (!inodes.empty()) KillProcessesIn(inodes);
  for (const std::string& name : names) {
    const std::string path = kFolder + name;
    umount2(path.c_str(), MNT_DETACH);
    unlink(path.c_str());
  }
}

int SweepNamespaces() {
  int swept = 0;
  for (const std::string& name : ListNamespaces(kMark)) {
    if (!OwnerHasEnded(name)) continue;
    RemoveNamespaces(name);
    ++swept;
  }
  return swept;
}

absl::Status EnterNamespace(const std::string& name) {
  const int fd = open(absl::StrCat(kFolder, name).c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return absl::NotFoundError(absl::StrCat("there is no namespace ", name));
  const int entered = setns(fd, CLONE_NEWNET);
  close(fd);
  if (entered != 0) return Failed(absl::StrCat("entering ", name));
  if (unshare(CLONE_NEWNS) != 0 || mount("", "/", "none", MS_SLAVE | MS_REC, nullptr) != 0) {
    return Failed("a mount namespace of its own");
  }
  umount2("/sys", MNT_DETACH);
  if (mount("sysfs", "/sys", "sysfs", 0, nullptr) != 0) return Failed("mounting /sys");
  return absl::OkStatus();
}

absl::StatusOr<pid_t> StartJanitor(const std::string& prefix) {
  const int owner = static_cast<int>(syscall(SYS_pidfd_open, getpid(), 0));
  if (owner < 0) return Failed("a descriptor of the process");
  const pid_t pid = fork();
  if (pid == 0) {
    setsid();
    prctl(PR_SET_NAME, "hosts-janitor");
    // Held open, a pipe of the owner's would keep its readers waiting.
    dup2(owner, 0);
    close_range(1, ~0u, 0);
    pollfd wait = {0, POLLIN, 0};
    while (poll(&wait, 1, -1) <= 0) {
    }
    RemoveNamespaces(prefix);
    _exit(0);
  }
  close(owner);
  if (pid < 0) return Failed("forking a janitor");
  return pid;
}

void ReleaseJanitor(pid_t janitor) {
  kill(janitor, SIGKILL);
  waitpid(janitor, nullptr, 0);
}

}  // namespace conclave
