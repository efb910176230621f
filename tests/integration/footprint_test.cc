// A throw-away cluster leaves nothing behind: no process, shared memory, socket or file.

#include <dirent.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gtest/gtest.h"
#include "tests/integration/real_cluster.h"

namespace conclave {
namespace {

namespace fs = std::filesystem;

std::set<std::string> Names(const std::string& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error))
    names.insert(entry.path().filename());
  return names;
}

// The lines of a /proc table, such as the System V segments.
int64_t Lines(const std::string& path) {
  int64_t lines = 0;
  if (FILE* file = fopen(path.c_str(), "r"); file != nullptr) {
    for (int c; (c = fgetc(file)) != EOF;) lines += c == '\n' ? 1 : 0;
    fclose(file);
  }
  return lines;
}

TEST(FootprintTest, FourWorkersStartAnswerAndStopAndLeaveNothing) {
  const std::string tmp = getenv("TEST_TMPDIR");
  setenv("TMPDIR", tmp.c_str(), 1);
  const std::set<std::string> shm = Names("/dev/shm");
  const std::set<std::string> files = Names(tmp);
  const int64_t segments = Lines("/proc/sysvipc/shm");
  const absl::Time begin = absl::Now();
  pid_t pids[5];
  {
    ModelOptions model;
    model.model = GoldenPath("qwen3_moe");
    const auto cluster = StartCluster("tp=2,dp=2", model);
    EXPECT_EQ(Greedy(cluster->Client(false), {1, 2, 3}, 8).size(), 8u);
    pids[0] = cluster->coordinator().pid();
    for (int i = 0; i < 4; ++i) pids[i + 1] = cluster->worker(i).pid();
    const absl::Status stopped = cluster->Stop();
    EXPECT_TRUE(stopped.ok()) << stopped.message();
  }
  std::cout << "start, answer, stop: " << absl::FormatDuration(absl::Now() - begin) << "\n";
  for (const pid_t pid : pids) EXPECT_FALSE(fs::exists(absl::StrCat("/proc/", pid)));
  EXPECT_EQ(Names("/dev/shm"), shm);
  EXPECT_EQ(Names(tmp), files);
  EXPECT_EQ(Lines("/proc/sysvipc/shm"), segments);
}

}  // namespace
}  // namespace conclave
