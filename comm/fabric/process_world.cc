#include "comm/fabric/process_world.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <numeric>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "comm/base/status.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Seqpacket sockets keep the boundaries of texts, which are shorter than this.
constexpr size_t kTextMax = 64 << 10;

// Before a child's error in place of its address; "connected" when all went well.
constexpr absl::string_view kErrorMark = "error: ";
constexpr char kConnected[] = "connected";

absl::Status SystemError(const char* what, int rank) {
  return absl::ResourceExhaustedError(
      absl::StrCat("starting fabric rank ", rank, ": the system gives no ", what, ": ",
                   std::strerror(errno), "; see ulimit -u and ulimit -n"));
}

void SendText(int fd, const std::string& text) {
  CHECK_LT(text.size(), kTextMax);
  const std::string framed = text + "\n";  // an empty packet would look like the end
  CHECK_EQ(send(fd, framed.data(), framed.size(), MSG_NOSIGNAL),
           static_cast<ssize_t>(framed.size()));
}

absl::StatusOr<std::string> ReceiveText(int fd, absl::Duration timeout) {
  pollfd wait = {fd, POLLIN, 0};
  if (poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) <= 0) {
    return absl::DeadlineExceededError("no text came");
  }
  std::string text(kTextMax, '\0');
  const ssize_t size = recv(fd, text.data(), text.size(), 0);
  if (size <= 0) return absl::UnavailableError("the process has ended");
  text.resize(size - 1);
  return text;
}

}  // namespace

FabricGroup ProcessRank::Whole() const {
  FabricGroup group;
  group.ranks.resize(ranks_);
  std::iota(group.ranks.begin(), group.ranks.end(), 0);
  group.index = rank_;
  return group;
}

void ProcessRank::Say(const std::string& text) { SendText(fd_, text); }

void ProcessRank::AwaitGoOn() { CHECK(ReceiveText(fd_, absl::Seconds(60)).ok()); }

absl::Status ProcessRank::Connect(const ProcessWorldOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<FabricEndpoint> endpoint, CreateUcxEndpoint(options.ucx));
  Say(endpoint->Address());
  FabricEndpoint::Peers peers;
  peers.rank = rank_;
  peers.epoch = 1;
  for (int i = 0; i < ranks_; ++i) {
    ASSIGN_OR_RETURN(std::string address, ReceiveText(fd_, absl::Seconds(20)));
    peers.addresses.push_back(std::move(address));
    peers.nodes.push_back(options.one_node ? "node" : absl::StrCat("node", i));
  }
  ASSIGN_OR_RETURN(fabric_, endpoint->Connect(peers));
  return absl::OkStatus();
}

ProcessWorld::ProcessWorld(int ranks, bool one_node, const Body& body) {
  ProcessWorldOptions options;
  options.one_node = one_node;
  const absl::Status launched = Launch(ranks, options, body);
  CHECK(launched.ok()) << launched;
}

absl::StatusOr<std::unique_ptr<ProcessWorld>> ProcessWorld::Start(
    int ranks, const ProcessWorldOptions& options, const Body& body) {
  std::unique_ptr<ProcessWorld> world(new ProcessWorld());
  RETURN_IF_ERROR(world->Launch(ranks, options, body));
  return world;
}

absl::Status ProcessWorld::Launch(int ranks, const ProcessWorldOptions& options,
                                  const Body& body) {
  for (int rank = 0; rank < ranks; ++rank) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
      return SystemError("a socket", rank);
    }
    const pid_t parent = getpid();
    const pid_t pid = fork();
    if (pid < 0) {
      const absl::Status error = SystemError("a process", rank);
      close(pair[0]);
      close(pair[1]);
      return error;
    }
    if (pid == 0) {
      prctl(PR_SET_PDEATHSIG, SIGKILL);
      if (getppid() != parent) _exit(1);  // it died before it could tell
      for (const Child& other : children_) close(other.fd);
      close(pair[0]);
      ProcessRank child(rank, ranks, pair[1]);
      const absl::Status connected = child.Connect(options);
      child.Say(connected.ok() ? kConnected : absl::StrCat(kErrorMark, connected.message()));
      if (!connected.ok()) _exit(1);
      body(child);
      child.fabric().reset();
      _exit(0);
    }
    close(pair[1]);
    children_.push_back({pid, pair[0], false});
  }
  std::vector<std::string> addresses;
  for (int rank = 0; rank < ranks; ++rank) {
    ASSIGN_OR_RETURN(std::string address, ReceiveWhileStarting(rank));
    addresses.push_back(std::move(address));
  }
  for (const Child& child : children_) {
    for (const std::string& address : addresses) SendText(child.fd, address);
  }
  for (int rank = 0; rank < ranks; ++rank) RETURN_IF_ERROR(ReceiveWhileStarting(rank).status());
  return absl::OkStatus();
}

absl::StatusOr<std::string> ProcessWorld::ReceiveWhileStarting(int rank) {
  absl::StatusOr<std::string> text = Receive(rank);
  if (text.ok() && !absl::StartsWith(*text, kErrorMark)) return text;
  return absl::UnavailableError(
      absl::StrCat("starting fabric rank ", rank, " as a process: ",
                   text.ok() ? text->substr(kErrorMark.size()) : text.status().message()));
}

ProcessWorld::~ProcessWorld() {
  for (Child& child : children_) {
    if (!child.ended) {
      kill(child.pid, SIGKILL);
      waitpid(child.pid, nullptr, 0);
    }
    close(child.fd);
  }
}

absl::StatusOr<std::string> ProcessWorld::Receive(int rank, absl::Duration timeout) {
  return ReceiveText(children_[rank].fd, timeout);
}

void ProcessWorld::GoOn(int rank) { SendText(children_[rank].fd, "go on"); }

void ProcessWorld::Signal(int rank, int signal) {
  Child& child = children_[rank];
  CHECK_EQ(kill(child.pid, signal), 0);
  int state = 0;
  CHECK_EQ(waitpid(child.pid, &state, WUNTRACED), child.pid);
  child.ended = !WIFSTOPPED(state);
}

bool ProcessWorld::EndsWell(int rank, absl::Duration timeout) {
  Child& child = children_[rank];
  const int watch = static_cast<int>(syscall(SYS_pidfd_open, child.pid, 0));
  CHECK_GE(watch, 0);
  pollfd wait = {watch, POLLIN, 0};
  const int ready = poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout)));
  close(watch);
  if (ready <= 0) return false;
  int state = 0;
  CHECK_EQ(waitpid(child.pid, &state, 0), child.pid);
  child.ended = true;
  return WIFEXITED(state) && WEXITSTATUS(state) == 0;
}

}  // namespace conclave
