// The UCX fabric between real processes: what is left behind, and what happens when one is killed
// or stopped.
#include <dirent.h>
#include <signal.h>

#include <chrono>
#include <fstream>
#include <set>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "comm/fabric/process_world.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

int64_t MillisecondsSince(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(std::chrono::steady_clock::now() -
                                                               start)
      .count();
}

std::set<std::string> SharedMemoryFiles() {
  std::set<std::string> names;
  DIR* folder = opendir("/dev/shm");
  if (folder == nullptr) return names;
  while (const dirent* entry = readdir(folder)) {
    if (absl::StrContains(entry->d_name, "ucx")) names.insert(entry->d_name);
  }
  closedir(folder);
  return names;
}

// SysV segments made by `pid` (column 5 of /proc/sysvipc/shm).
int SysvSegmentsOf(pid_t pid) {
  std::ifstream in("/proc/sysvipc/shm");
  std::string line;
  int count = 0;
  while (std::getline(in, line)) {
    std::istringstream fields(line);
    int64_t key, id, perms, size, creator;
    if (fields >> key >> id >> perms >> size >> creator && creator == pid) ++count;
  }
  return count;
}

class UcxProcessTest : public testing::TestWithParam<bool> {};

// Sums of several sizes, repeated; says "ok" or the error.
void SumRepeatedly(ProcessRank& rank) {
  for (int round = 0; round < 200; ++round) {
    const size_t count = round % 50 == 49 ? 400000 : 1 + round * 37;
    std::vector<float> data(count, static_cast<float>(rank.rank() + round));
    const absl::Status status = rank.fabric()->AllReduceSum(rank.Whole(), absl::MakeSpan(data),
                                                            {"sum", round, absl::Seconds(10)});
    const float sum = rank.ranks() * (rank.ranks() - 1) / 2 + round * rank.ranks();
    if (!status.ok()) return rank.Say(status.ToString());
    if (data[0] != sum || data[count - 1] != sum) return rank.Say(absl::StrCat("sum ", data[0]));
  }
  rank.Say("ok");
}

TEST_P(UcxProcessTest, CollectivesWorkAndNothingIsLeft) {
  const std::set<std::string> before = SharedMemoryFiles();
  for (const int ranks : {2, 3, 8}) {
    ProcessWorld world(ranks, GetParam(), SumRepeatedly);
    for (int rank = 0; rank < ranks; ++rank) {
      const auto said = world.Receive(rank);
      ASSERT_TRUE(said.ok()) << said.status() << " rank " << rank;
      EXPECT_EQ(*said, "ok");
    }
    for (int rank = 0; rank < ranks; ++rank) {
      EXPECT_TRUE(world.EndsWell(rank));
      EXPECT_EQ(SysvSegmentsOf(world.pid(rank)), 0);
    }
  }
  EXPECT_EQ(SharedMemoryFiles(), before);
}

// Rank 2 joins one sum, then stands still; the others go on when told, with messages of `count`
// floats.
struct Standstill {
  size_t count;
  absl::Duration timeout;

  void operator()(ProcessRank& rank) const {
    std::vector<float> data(count, 1);
    const absl::Status first = rank.fabric()->AllReduceSum(rank.Whole(), absl::MakeSpan(data),
                                                           {"first", 0, absl::Seconds(10)});
    rank.Say(first.ToString());
    if (rank.rank() == 2) return rank.AwaitGoOn();
    rank.AwaitGoOn();
    const auto start = std::chrono::steady_clock::now();
    std::vector<uint8_t> out(count * sizeof(float)), in(count * sizeof(float));
    const std::vector<SendBuffer> sends = {{2, out}, {2, out}};
    std::vector<RecvBuffer> recvs = {{2, absl::MakeSpan(in)}};
    const absl::Status status =
        rank.fabric()->Exchange(sends, absl::MakeSpan(recvs), {"moe_dispatch", 9, timeout});
    const int64_t waited = MillisecondsSince(start);
    const auto teardown = std::chrono::steady_clock::now();
    rank.fabric().reset();
    rank.Say(absl::StrCat(waited, "|", MillisecondsSince(teardown), "|", status.ToString()));
    rank.AwaitGoOn();
  }
};

struct Outcome {
  int64_t waited_ms = 0;
  int64_t teardown_ms = 0;
  std::string status;
};

Outcome OutcomeOf(ProcessWorld& world, int rank) {
  const auto said = world.Receive(rank);
  if (!said.ok()) return {0, 0, said.status().ToString()};
  const std::vector<std::string> parts = absl::StrSplit(*said, absl::MaxSplits('|', 2));
  Outcome outcome;
  EXPECT_TRUE(absl::SimpleAtoi(parts[0], &outcome.waited_ms));
  EXPECT_TRUE(absl::SimpleAtoi(parts[1], &outcome.teardown_ms));
  outcome.status = parts[2];
  return outcome;
}

TEST_P(UcxProcessTest, KilledPeerIsNamedLongBeforeTheDeadline) {
  const std::set<std::string> before = SharedMemoryFiles();
  for (const size_t count : {size_t{10}, size_t{1} << 20}) {
    ProcessWorld world(4, GetParam(), Standstill{count, absl::Seconds(15)});
    for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(*world.Receive(rank), "OK");
    // Rank 0 waits already when rank 2 dies; ranks 1 and 3 start after that.
    world.GoOn(0);
    world.Signal(2, SIGKILL);
    world.GoOn(1);
    world.GoOn(3);
    for (const int rank : {0, 1, 3}) {
      const Outcome outcome = OutcomeOf(world, rank);
      EXPECT_THAT(outcome.status, HasSubstr("rank 2 has gone")) << rank;
      EXPECT_THAT(outcome.status, HasSubstr("moe_dispatch of layer 9"));
      EXPECT_LT(outcome.waited_ms, 3000);
      EXPECT_LT(outcome.teardown_ms, 200);
    }
    EXPECT_EQ(SysvSegmentsOf(world.pid(2)), 0);
    for (const int rank : {0, 1, 3}) {
      world.GoOn(rank);
      EXPECT_TRUE(world.EndsWell(rank));
    }
  }
  EXPECT_EQ(SharedMemoryFiles(), before);
}

TEST_P(UcxProcessTest, StoppedPeerIsNamedAtTheDeadline) {
  for (const size_t count : {size_t{10}, size_t{1} << 20}) {
    ProcessWorld world(4, GetParam(), Standstill{count, absl::Milliseconds(360)});
    for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(*world.Receive(rank), "OK");
    world.Signal(2, SIGSTOP);
    for (const int rank : {0, 1, 3}) world.GoOn(rank);
    for (const int rank : {0, 1, 3}) {
      const Outcome outcome = OutcomeOf(world, rank);
      EXPECT_THAT(outcome.status, HasSubstr("DEADLINE_EXCEEDED"));
      EXPECT_THAT(outcome.status, HasSubstr("no message from rank 2"));
      // It is given up a sixth of 360 ms before the deadline, so that the report comes in time.
      EXPECT_GE(outcome.waited_ms, 300);
      EXPECT_LT(outcome.waited_ms, 1000);  // the wait and the teardown of its worker
      EXPECT_LT(outcome.teardown_ms, 200);
    }
    for (const int rank : {0, 1, 3}) {
      world.GoOn(rank);
      EXPECT_TRUE(world.EndsWell(rank));
    }
  }
}

TEST_P(UcxProcessTest, RanksThatWaitForOneAnotherBlameTheLast) {
  // 0 waits for 1, 1 for 2, 2 for 3, and 3 is stopped or killed: nobody but 3 is to blame. Rank 0
  // starts last and has no connection to 3.
  const auto body = [](ProcessRank& rank) {
    rank.Say("ready");
    rank.AwaitGoOn();
    const auto start = std::chrono::steady_clock::now();
    std::vector<uint8_t> in(1000);
    std::vector<RecvBuffer> recvs = {{rank.rank() + 1, absl::MakeSpan(in)}};
    const absl::Status status = rank.fabric()->Exchange({}, absl::MakeSpan(recvs),
                                                        {"moe_gather", 4, absl::Milliseconds(600)});
    const int64_t waited = MillisecondsSince(start);
    rank.Say(absl::StrCat(waited, "|0|", absl::StrJoin(FaultyRanks(status), ","), " ",
                          status.ToString()));
    rank.AwaitGoOn();
  };
  for (const int signal : {SIGSTOP, SIGKILL}) {
    ProcessWorld world(4, GetParam(), body);
    for (int rank = 0; rank < 4; ++rank) EXPECT_EQ(*world.Receive(rank), "ready");
    for (const int rank : {2, 1, 0}) world.GoOn(rank);
    world.Signal(3, signal);
    for (const int rank : {0, 1, 2}) {
      const Outcome outcome = OutcomeOf(world, rank);
      EXPECT_THAT(outcome.status, testing::StartsWith("3 ")) << "rank " << rank;
      EXPECT_THAT(outcome.status, HasSubstr("moe_gather of layer 4"));
      EXPECT_LT(outcome.waited_ms, 2000);
    }
    for (const int rank : {0, 1, 2}) {
      world.GoOn(rank);
      EXPECT_TRUE(world.EndsWell(rank));
    }
  }
}

TEST_P(UcxProcessTest, KilledInTheMiddleOfATransfer) {
  // Large messages go round without a pause until rank 1 is killed somewhere in the middle of one.
  const auto body = [](ProcessRank& rank) {
    std::vector<float> data(2 << 20, 1);
    absl::Status status;
    for (int round = 0; status.ok(); ++round) {
      status = rank.fabric()->AllReduceSum(rank.Whole(), absl::MakeSpan(data),
                                           {"sum", round, absl::Seconds(5)});
      if (round == 3) rank.Say("running");
    }
    const auto teardown = std::chrono::steady_clock::now();
    rank.fabric().reset();
    rank.Say(absl::StrCat(0, "|", MillisecondsSince(teardown), "|", status.ToString()));
    rank.AwaitGoOn();
  };
  ProcessWorld world(3, GetParam(), body);
  for (int rank = 0; rank < 3; ++rank) EXPECT_EQ(*world.Receive(rank), "running");
  world.Signal(1, SIGKILL);
  int named = 0;
  for (const int rank : {0, 2}) {
    const Outcome outcome = OutcomeOf(world, rank);
    EXPECT_THAT(outcome.status, testing::Not(HasSubstr("OK")));
    named += absl::StrContains(outcome.status, "rank 1");
    EXPECT_LT(outcome.teardown_ms, 200);
  }
  EXPECT_GE(named, 1);
  for (const int rank : {0, 2}) {
    world.GoOn(rank);
    EXPECT_TRUE(world.EndsWell(rank));
  }
}

INSTANTIATE_TEST_SUITE_P(Nodes, UcxProcessTest, testing::Values(true, false),
                         [](const auto& info) { return info.param ? "OneNode" : "ManyNodes"; });

}  // namespace
}  // namespace conclave
