#include "comm/fabric/process_world.h"

#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <memory>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "comm/fabric/ucx_fabric.h"
#include "glog/logging.h"

namespace conclave {
namespace {

// Seqpacket sockets keep the boundaries of texts, which are shorter than this.
constexpr size_t kTextMax = 64 << 10;

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

absl::Status ProcessRank::Connect(bool one_node) {
  ASSIGN_OR_RETURN(std::unique_ptr<FabricEndpoint> endpoint, CreateUcxEndpoint({}));
  Say(endpoint->Address());
  FabricEndpoint::Peers peers;
  peers.rank = rank_;
  peers.epoch = 1;
  for (int i = 0; i < ranks_; ++i) {
    ASSIGN_OR_RETURN(std::string address, ReceiveText(fd_, absl::Seconds(20)));
    peers.addresses.push_back(std::move(address));
    peers.nodes.push_back(one_node ? "node" : absl::StrCat("node", i));
  }
  ASSIGN_OR_RETURN(fabric_, endpoint->Connect(peers));
  return absl::OkStatus();
}

ProcessWorld::ProcessWorld(int ranks, bool one_node,
                           const std::function<void(ProcessRank&)>& body) {
  for (int rank = 0; rank < ranks; ++rank) {
    int pair[2];
    CHECK_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
    const pid_t pid = fork();
    CHECK_GE(pid, 0);
    if (pid == 0) {
      for (const Child& other : children_) close(other.fd);
      close(pair[0]);
      ProcessRank child(rank, ranks, pair[1]);
      const absl::Status connected = child.Connect(one_node);
      CHECK(connected.ok()) << connected;
      body(child);
      child.fabric().reset();
      _exit(0);
    }
    close(pair[1]);
    children_.push_back({pid, pair[0], false});
  }
  PassAddressesAround();
}

void ProcessWorld::PassAddressesAround() {
  std::vector<std::string> addresses;
  for (size_t rank = 0; rank < children_.size(); ++rank) {
    auto address = Receive(static_cast<int>(rank));
    CHECK(address.ok()) << address.status();
    addresses.push_back(*std::move(address));
  }
  for (const Child& child : children_) {
    for (const std::string& address : addresses) SendText(child.fd, address);
  }
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
