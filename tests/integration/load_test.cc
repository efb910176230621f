// Many streams at once on four workers: each gets its own whole text; the coordinator stays light;
// an idle cluster sleeps.

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "glog/logging.h"
#include "gtest/gtest.h"
#include "tests/integration/real_cluster.h"

namespace conclave {
namespace {

constexpr int kStreams = 64;
constexpr int kTokens = 48;

// Time that a process has run so far, in seconds, to the nanosecond: the ticks of /proc/PID/stat
// charge whole ones to whoever is on the processor when they come.
double CpuSeconds(pid_t pid) {
  clockid_t clock = 0;
  timespec time = {};
  CHECK_EQ(clock_getcpuclockid(pid, &clock), 0) << "process " << pid;
  CHECK_EQ(clock_gettime(clock, &time), 0) << "process " << pid;
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
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

// The share of a core that an idle cluster of five processes takes is 1 % on a quiet machine. The
// lowest of a few looks counts: what other programs do to the caches is not the cluster's doing.
TEST(LoadTest, AnIdleClusterUsesAlmostNoProcessor) {
  const auto cluster = StartCluster("tp=2,dp=2");
  Greedy(cluster->Client(false), {5, 6, 7}, 4);
  double share = 1;
  for (int look = 0; look < 4 && share >= 0.02; ++look) {
    const double cpu_begin = ClusterCpuSeconds(*cluster);
    const int64_t wakeups_begin = ClusterWakeups(*cluster);
    const absl::Time begin = absl::Now();
    absl::SleepFor(absl::Seconds(4));  // tidy: allow(sleep) time itself is what is measured
    const double seconds = absl::ToDoubleSeconds(absl::Now() - begin);
    share = std::min(share, (ClusterCpuSeconds(*cluster) - cpu_begin) / seconds);
    const double wakeups = static_cast<double>(ClusterWakeups(*cluster) - wakeups_begin) / seconds;
    std::cout << "idle: " << 100 * share << " % of a core, " << wakeups << " wake-ups a second\n";
    EXPECT_LT(wakeups, 200);
  }
  EXPECT_LT(share, 0.02);
  EXPECT_TRUE(cluster->Stop().ok());
}

}  // namespace
}  // namespace conclave
