// Many streams at once on four workers: each gets its own whole text; the coordinator stays light;
// an idle cluster sleeps.

#include <unistd.h>

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

TEST(LoadTest, AnIdleClusterUsesAlmostNoProcessor) {
  const auto cluster = StartCluster("tp=2,dp=2");
  Greedy(cluster->Client(false), {5, 6, 7}, 4);
  const double cpu_begin = ClusterCpuSeconds(*cluster);
  const absl::Time begin = absl::Now();
  absl::SleepFor(absl::Seconds(5));  // tidy: allow(sleep) time itself is what is measured
  const double share =
      (ClusterCpuSeconds(*cluster) - cpu_begin) / absl::ToDoubleSeconds(absl::Now() - begin);
  std::cout << "idle: " << 100 * share << " % of a core in total\n";
  EXPECT_LT(share, 0.02);
  EXPECT_TRUE(cluster->Stop().ok());
}

}  // namespace
}  // namespace conclave
