// Many streams at once on four workers: each gets its own whole text; the coordinator stays light;
// an idle cluster sleeps.

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/integration/real_cluster.h"

namespace conclave {
namespace {

constexpr int kStreams = 64;
constexpr int kTokens = 48;

// User and system time of a process so far, in seconds (proc(5), fields 14 and 15 of stat).
double CpuSeconds(pid_t pid) {
  std::ifstream in(absl::StrCat("/proc/", pid, "/stat"));
  std::stringstream text;
  text << in.rdbuf();
  const std::string all = text.str();
  const std::vector<std::string> fields = absl::StrSplit(all.substr(all.rfind(')') + 2), ' ');
  return (std::stod(fields[11]) + std::stod(fields[12])) / sysconf(_SC_CLK_TCK);
}

double ClusterCpuSeconds(const LocalCluster& cluster) {
  double seconds = CpuSeconds(cluster.coordinator().pid());
  for (int i = 0; i < cluster.worker_count(); ++i) seconds += CpuSeconds(cluster.worker(i).pid());
  return seconds;
}

TEST(LoadTest, SixtyFourStreamsAreWholeAndTheCoordinatorIsLight) {
  const std::vector<DemoReference> references = DemoReferences();
  const auto cluster = StartCluster("tp=2,dp=2");
  const HttpClient client = cluster->Client(false);
  const absl::Time begin = absl::Now();
  const double cpu_begin = CpuSeconds(cluster->coordinator().pid());
  std::vector<std::future<std::vector<int32_t>>> streams;
  for (int i = 0; i < kStreams; ++i) {
    streams.push_back(std::async(
        std::launch::async, [&, i] { return Greedy(client, references[i % 4].prompt, kTokens); }));
  }
  for (int i = 0; i < kStreams; ++i) {
    const std::vector<int32_t>& expected = references[i % 4].greedy;
    EXPECT_EQ(streams[i].get(), std::vector<int32_t>(expected.begin(), expected.begin() + kTokens))
        << "stream " << i;
  }
  const double cpu = CpuSeconds(cluster->coordinator().pid()) - cpu_begin;
  const double wall = absl::ToDoubleSeconds(absl::Now() - begin);
  std::cout << "64 streams: " << wall << " s, coordinator " << cpu << " s of CPU ("
            << 100 * cpu / wall << " % of a core)\n";
  EXPECT_LT(cpu, 0.4 * wall);
  EXPECT_TRUE(cluster->Stop().ok());
}

// Of all its threads. What a wake-up costs is the machine's affair; how many there are is ours.
int64_t Wakeups(pid_t pid) {
  int64_t wakeups = 0;
  for (const auto& thread :
       std::filesystem::directory_iterator(absl::StrCat("/proc/", pid, "/task"))) {
    std::ifstream in(thread.path() / "status");
    for (std::string word; in >> word;) {
      int64_t count = 0;
      if (word == "voluntary_ctxt_switches:" && in >> count) wakeups += count;
    }
  }
  return wakeups;
}

int64_t ClusterWakeups(const LocalCluster& cluster) {
  int64_t wakeups = Wakeups(cluster.coordinator().pid());
  for (int i = 0; i < cluster.worker_count(); ++i) wakeups += Wakeups(cluster.worker(i).pid());
  return wakeups;
}

// An idle cluster of five processes takes 1 % of a core on a quiet machine and several on a busy
// one (cold caches, ticks that count whole): so its wake-ups are bounded, and its share only so far
// that a thread that spins is seen.
TEST(LoadTest, AnIdleClusterUsesAlmostNoProcessor) {
  const auto cluster = StartCluster("tp=2,dp=2");
  Greedy(cluster->Client(false), {5, 6, 7}, 4);
  const double cpu_begin = ClusterCpuSeconds(*cluster);
  const int64_t wakeups_begin = ClusterWakeups(*cluster);
  const absl::Time begin = absl::Now();
  absl::SleepFor(absl::Seconds(4));  // tidy: allow(sleep) time itself is what is measured
  const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
  const double share = (ClusterCpuSeconds(*cluster) - cpu_begin) / seconds;
  const double wakeups = static_cast<double>(ClusterWakeups(*cluster) - wakeups_begin) / seconds;
  std::cout << "idle: " << 100 * share << " % of a core, " << wakeups << " wake-ups a second\n";
  EXPECT_LT(wakeups, 200);
  EXPECT_LT(share, 0.25);
  EXPECT_TRUE(cluster->Stop().ok());
}

}  // namespace
}  // namespace conclave
