// HostNet on this machine's kernel. Skips, with one line that says why, where the process may not
// make namespaces.
#include "tests/hosts/host_net.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "gtest/gtest.h"
#include "tests/hosts/command.h"
#include "tests/hosts/namespaces.h"
#include "tests/hosts/rank_process.h"

namespace conclave {
namespace {

constexpr absl::Duration kPatience = absl::Seconds(20);
constexpr int kPort = 7000;  // in a host of our own, nobody else has it

sockaddr_in AddressOf(const std::string& text) {
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_port = htons(kPort);
  CHECK_EQ(inet_pton(AF_INET, text.c_str(), &address.sin_addr), 1);
  return address;
}

bool Readable(int fd, absl::Duration timeout) {
  pollfd wait = {fd, POLLIN, 0};
  return poll(&wait, 1, static_cast<int>(absl::ToInt64Milliseconds(timeout))) > 0;
}

// Listens, says so, takes one connection, then does what it hears: "send N": N bytes; "hear
// MILLISECONDS": says how many bytes came within that time.
void Listen(RankLine& line) {
  const int listener = socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in any = AddressOf("0.0.0.0");
  CHECK_EQ(bind(listener, reinterpret_cast<const sockaddr*>(&any), sizeof(any)), 0);
  CHECK_EQ(listen(listener, 1), 0);
  CHECK(line.Say("listening").ok());
  CHECK(Readable(listener, kPatience));
  const int fd = accept(listener, nullptr, nullptr);
  std::vector<char> buffer(1 << 20);
  while (true) {
    const auto said = line.Hear(kPatience);
    if (!said.ok() || *said == "end") return;
    int milliseconds = 0;
    CHECK(absl::SimpleAtoi(said->substr(5), &milliseconds));
    ssize_t got = 0;
    if (Readable(fd, absl::Milliseconds(milliseconds))) {
      got = recv(fd, buffer.data(), buffer.size(), 0);
    }
    CHECK(line.Say(absl::StrCat(got)).ok());
  }
}

// Connects to `to`, says "connected", then sends what it hears.
void Talk(RankLine& line, const std::string& to) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  const sockaddr_in address = AddressOf(to);
  const int done = connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof(address));
  CHECK(line.Say(done == 0 ? "connected" : "refused").ok());
  while (true) {
    const auto said = line.Hear(kPatience);
    if (!said.ok() || *said == "end") return;
    CHECK_EQ(send(fd, said->data(), said->size(), MSG_NOSIGNAL),
             static_cast<ssize_t>(said->size()));
  }
}

class HostNetTest : public testing::Test {
 protected:
  void SetUp() override {
    const absl::Status rights = CheckNamespaceRights();
    if (!rights.ok()) GTEST_SKIP() << rights.message();
  }

  void Build(int hosts) {
    HostNetOptions options;
    options.hosts = hosts;
    auto net = HostNet::Create(options);
    ASSERT_TRUE(net.ok()) << net.status();
    net_ = *std::move(net);
  }

  // Host 1 listens, host 0 has connected to it.
  void Connect() {
    auto listener = RankProcess::Start([&] { return net_->Enter(1); }, Listen);
    ASSERT_TRUE(listener.ok());
    listener_ = *std::move(listener);
    ASSERT_EQ(*listener_->line().Hear(kPatience), "listening");
    auto talker = RankProcess::Start([&] { return net_->Enter(0); },
                                     [&](RankLine& line) { Talk(line, net_->Address(1)); });
    ASSERT_TRUE(talker.ok());
    talker_ = *std::move(talker);
    ASSERT_EQ(*talker_->line().Hear(kPatience), "connected");
  }
  // What comes of a word that host 0 sends to host 1, within `timeout`.
  std::string Send(const std::string& word, absl::Duration timeout) {
    EXPECT_TRUE(talker_->line().Say(word).ok());
    return Hear(timeout);
  }
  std::string Hear(absl::Duration timeout) {
    EXPECT_TRUE(
        listener_->line().Say(absl::StrCat("hear ", absl::ToInt64Milliseconds(timeout))).ok());
    return *listener_->line().Hear(kPatience);
  }

  std::unique_ptr<HostNet> net_;
  std::unique_ptr<RankProcess> listener_, talker_;
};

TEST_F(HostNetTest, HostsReachOneAnotherThroughFaultsAndRepairs) {
  Build(3);
  Connect();
  EXPECT_EQ(Send("12345", kPatience), "5");
  for (const LinkDirection direction : {LinkDirection::kOut, LinkDirection::kIn}) {
    ASSERT_TRUE(net_->SetBlackHole(1, direction, true).ok());
    ASSERT_TRUE(net_->SetBlackHole(1, direction, true).ok());  // twice is once
    if (direction == LinkDirection::kIn) {
      EXPECT_EQ(Send("1", absl::Milliseconds(50)), "0");
      ASSERT_TRUE(net_->SetBlackHole(1, direction, false).ok());
      EXPECT_EQ(Hear(kPatience), "1");  // TCP sends it again
    }
    ASSERT_TRUE(net_->Restore(1).ok());
  }
  ASSERT_TRUE(net_->SetLinkUp(1, false).ok());
  EXPECT_EQ(Send("12", absl::Milliseconds(50)), "0");
  ASSERT_TRUE(net_->SetLinkUp(1, true).ok());
  EXPECT_EQ(Hear(kPatience), "2");
  for (RankProcess* process : {listener_.get(), talker_.get()}) {
    ASSERT_TRUE(process->line().Say("end").ok());
    EXPECT_EQ(process->AwaitEnd(kPatience), "exit 0");
  }
}

TEST_F(HostNetTest, ALinkHasItsShape) {
  Build(1);
  const auto shape = [&] { return *RunCommand({"tc", "-n", net_->Name(0), "qdisc"}); };
  EXPECT_TRUE(absl::StrContains(shape(), "tbf")) << shape();
  EXPECT_TRUE(absl::StrContains(shape(), "rate 200Mbit")) << shape();
  LinkShape slow;
  slow.bits_per_second = 5'000'000;
  ASSERT_TRUE(net_->SetShape(0, LinkDirection::kOut, slow).ok());
  EXPECT_TRUE(absl::StrContains(shape(), "rate 5Mbit")) << shape();
  slow.bits_per_second = 0;
  ASSERT_TRUE(net_->SetShape(0, LinkDirection::kOut, slow).ok());
  EXPECT_FALSE(absl::StrContains(shape(), "tbf")) << shape();
  ASSERT_TRUE(net_->Restore(0).ok());
  EXPECT_TRUE(absl::StrContains(shape(), "rate 200Mbit")) << shape();
}

TEST_F(HostNetTest, TwoNetsDoNotMeet) {
  Build(2);
  HostNetOptions options;
  options.hosts = 2;
  auto other = HostNet::Create(options);
  ASSERT_TRUE(other.ok()) << other.status();
  EXPECT_NE(net_->Name(0), (*other)->Name(0));
  Connect();  // by addresses that the other net has too
  EXPECT_EQ(Send("123", kPatience), "3");
  other->reset();
  EXPECT_EQ(Send("12", kPatience), "2");
}

TEST_F(HostNetTest, NothingIsLeftOfANetOrItsProcesses) {
  Build(2);
  Connect();
  ASSERT_EQ(ListNamespaces(OwnNamespacePrefix()).size(), 3u);  // two hosts and their router
  net_.reset();
  EXPECT_TRUE(ListNamespaces(OwnNamespacePrefix()).empty());
  EXPECT_EQ(talker_->AwaitEnd(kPatience), "signal 9");
  EXPECT_EQ(listener_->AwaitEnd(kPatience), "signal 9");
}

TEST_F(HostNetTest, NothingIsLeftOfAnOwnerThatIsKilled) {
  // A process builds a net with a process in it, tells its name, and is killed. Its janitor, or the
  // sweep when that is killed too, removes all.
  for (const bool janitor_too : {false, true}) {
    auto owner = RankProcess::Start([] { return absl::OkStatus(); }, [](RankLine& line) {
      setpgid(0, 0);
      HostNetOptions options;
      options.hosts = 1;
      auto net = HostNet::Create(options);
      CHECK(net.ok()) << net.status();
      auto inside = RankProcess::Start([&] { return (*net)->Enter(0); },
                                       [](RankLine& own) { (void)own.Hear(kPatience); });
      CHECK(inside.ok());
      CHECK(line.Say(absl::StrCat(OwnNamespacePrefix(), " ", (*net)->janitor())).ok());
      (void)line.Hear(kPatience);
    });
    ASSERT_TRUE(owner.ok());
    const std::vector<std::string> said = absl::StrSplit(*(*owner)->line().Hear(kPatience), ' ');
    ASSERT_EQ(said.size(), 2u);
    ASSERT_EQ(ListNamespaces(said[0]).size(), 2u);
    int janitor = 0;
    ASSERT_TRUE(absl::SimpleAtoi(said[1], &janitor));
    if (janitor_too) kill(janitor, SIGKILL);
    (*owner)->Signal(SIGKILL);
    if (janitor_too) {
      EXPECT_GE(SweepNamespaces(), 2);
    }
    const absl::Time deadline = absl::Now() + kPatience;
    while (!ListNamespaces(said[0]).empty() && absl::Now() < deadline) {
    }
    EXPECT_TRUE(ListNamespaces(said[0]).empty()) << (janitor_too ? "sweep" : "janitor");
  }
}

TEST_F(HostNetTest, WhatDoesNotFitIsRefused) {
  HostNetOptions options;
  options.hosts = 0;
  EXPECT_EQ(HostNet::Create(options).status().message(), "hosts=0: give 1 to 1024");
}

TEST(CommandTest, OutputErrorsAndDeadlinesAreReported) {
  CommandOptions options;
  options.input = "some text";
  EXPECT_EQ(*RunCommand({"cat"}, options), "some text");
  EXPECT_EQ(RunCommand({"no-such-program"}).status().code(), absl::StatusCode::kNotFound);
  const absl::Status failed = RunCommand({"sh", "-c", "echo why >&2; exit 3"}).status();
  EXPECT_EQ(failed.code(), absl::StatusCode::kInternal);
  EXPECT_TRUE(absl::StrContains(failed.message(), "failed: why")) << failed;
  options.timeout = absl::Milliseconds(50);
  EXPECT_EQ(RunCommand({"sh", "-c", "read line < /dev/zero"}, options).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

}  // namespace
}  // namespace conclave
