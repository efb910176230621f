#include "tests/hosts/rank_process.h"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "comm/base/status.h"
#include "comm/fabric/ucx_fabric.h"
#include "glog/logging.h"

namespace conclave {
namespace {

constexpr size_t kTextMax = 64 << 10;
constexpr absl::Duration kJoinTimeout = absl::Seconds(30);

// poll of one descriptor until `timeout`, through interruptions.
bool AwaitReadable(int fd, absl::Duration timeout) {
  const absl::Time deadline = absl::Now() + timeout;
  while (true) {
    const absl::Duration left = std::max(deadline - absl::Now(), absl::ZeroDuration());
    const int64_t milliseconds = absl::ToInt64Milliseconds(left + absl::Milliseconds(1));
    pollfd wait = {fd, POLLIN, 0};
    const int ready = poll(&wait, 1, static_cast<int>(milliseconds));
    if (ready > 0) return true;
    if (ready == 0 && absl::Now() >= deadline) return false;
  }
}

}  // namespace

RankLine::~RankLine() { close(fd_); }

absl::Status RankLine::Say(const std::string& text) {
  CHECK_LT(text.size(), kTextMax);
  const std::string framed = text + "\n";  // an empty packet would look like the end
  if (send(fd_, framed.data(), framed.size(), MSG_NOSIGNAL) < 0) {
    return absl::UnavailableError(
        absl::StrCat("the other end of a rank's line: ", std::strerror(errno)));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> RankLine::Hear(absl::Duration timeout) {
  if (!AwaitReadable(fd_, timeout)) {
    return absl::DeadlineExceededError(
        absl::StrCat("no text came within ", absl::FormatDuration(timeout)));
  }
  std::string text(kTextMax, '\0');
  const ssize_t size = recv(fd_, text.data(), text.size(), 0);
  if (size <= 0) return absl::UnavailableError("the other end of a rank's line has ended");
  text.resize(size - 1);
  return text;
}

absl::StatusOr<std::unique_ptr<RankProcess>> RankProcess::Start(
    const std::function<absl::Status()>& enter, const std::function<void(RankLine&)>& body) {
  int pair[2];
  if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
    return absl::ResourceExhaustedError("no descriptors for a rank's line");
  }
  std::fflush(nullptr);  // or the child writes it too
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid < 0) return absl::ResourceExhaustedError("cannot fork a rank");
  if (pid == 0) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(1);
    // Lines of the other ranks: their parent's end would keep them from ending.
    dup3(pair[1], STDERR_FILENO + 1, 0);
    close_range(STDERR_FILENO + 2, ~0u, 0);
    RankLine line(STDERR_FILENO + 1);
    const absl::Status entered = enter();
    CHECK(entered.ok()) << entered;
    body(line);
    _exit(0);
  }
  close(pair[1]);
  return std::unique_ptr<RankProcess>(new RankProcess(pid, pair[0]));
}

RankProcess::~RankProcess() {
  if (end_ != "running") return;
  kill(pid_, SIGKILL);
  AwaitEnd(absl::InfiniteDuration());
}

void RankProcess::Signal(int signal) {
  if (AwaitEnd(absl::ZeroDuration()) != "running") return;
  CHECK_EQ(kill(pid_, signal), 0);
  if (signal == SIGKILL) AwaitEnd(absl::Seconds(20));
  if (signal == SIGSTOP) {
    siginfo_t info = {};
    CHECK_EQ(waitid(P_PID, pid_, &info, WSTOPPED | WEXITED | WNOWAIT), 0);
  }
}

std::string RankProcess::AwaitEnd(absl::Duration timeout) {
  if (end_ != "running") return end_;
  const int watch = static_cast<int>(syscall(SYS_pidfd_open, pid_, 0));
  CHECK_GE(watch, 0);
  const bool ended = AwaitReadable(watch, std::min(timeout, absl::Hours(1)));
  close(watch);
  if (!ended) return end_;
  int state = 0;
  CHECK_EQ(waitpid(pid_, &state, 0), pid_);
  end_ = WIFEXITED(state) ? absl::StrCat("exit ", WEXITSTATUS(state))
                          : absl::StrCat("signal ", WTERMSIG(state));
  return end_;
}

absl::Status JoinMembers(const std::vector<FabricMember>& members, uint64_t epoch,
                         absl::Duration timeout) {
  for (const FabricMember& member : members) {
    RETURN_IF_ERROR(member.process->line().Say("join"));
  }
  std::vector<std::string> addresses;
  for (size_t rank = 0; rank < members.size(); ++rank) {
    auto address = members[rank].process->line().Hear(timeout);
    if (!address.ok()) return WithContext(address.status(), absl::StrCat("rank ", rank, " joins"));
    addresses.push_back(*std::move(address));
  }
  for (size_t rank = 0; rank < members.size(); ++rank) {
    RankLine& line = members[rank].process->line();
    RETURN_IF_ERROR(line.Say(absl::StrCat(rank, " ", members.size(), " ", epoch)));
    for (size_t peer = 0; peer < members.size(); ++peer) {
      RETURN_IF_ERROR(line.Say(members[peer].node));
      RETURN_IF_ERROR(line.Say(addresses[peer]));
    }
  }
  for (size_t rank = 0; rank < members.size(); ++rank) {
    const auto said = members[rank].process->line().Hear(timeout);
    if (!said.ok()) return WithContext(said.status(), absl::StrCat("rank ", rank, " connects"));
    if (*said != "joined") return absl::InternalError(absl::StrCat("rank ", rank, ": ", *said));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Fabric>> JoinFabric(RankLine& line) {
  ASSIGN_OR_RETURN(std::unique_ptr<FabricEndpoint> endpoint, CreateUcxEndpoint({}));
  RETURN_IF_ERROR(line.Say(endpoint->Address()));
  ASSIGN_OR_RETURN(const std::string place, line.Hear(kJoinTimeout));
  const std::vector<std::string> words = absl::StrSplit(place, ' ');
  FabricEndpoint::Peers peers;
  int ranks = 0;
  if (words.size() != 3 || !absl::SimpleAtoi(words[0], &peers.rank) ||
      !absl::SimpleAtoi(words[1], &ranks) || !absl::SimpleAtoi(words[2], &peers.epoch)) {
    return absl::InternalError(absl::StrCat("joining: '", place, "' is not rank, ranks, epoch"));
  }
  for (int rank = 0; rank < ranks; ++rank) {
    ASSIGN_OR_RETURN(std::string node, line.Hear(kJoinTimeout));
    ASSIGN_OR_RETURN(std::string address, line.Hear(kJoinTimeout));
    peers.nodes.push_back(std::move(node));
    peers.addresses.push_back(std::move(address));
  }
  auto fabric = endpoint->Connect(peers);
  RETURN_IF_ERROR(line.Say(fabric.ok() ? "joined" : fabric.status().ToString()));
  return fabric;
}

}  // namespace conclave
