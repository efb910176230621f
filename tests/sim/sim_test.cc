// A sample of seeds, the canaries, and determinism. The sim binary runs more.
#include <string>

#include "gtest/gtest.h"
#include "tests/sim/run.h"

namespace conclave {
namespace {

std::string Join(const SimReport& report) {
  std::string text = report.scenario;
  for (const std::string& violation : report.violations) text += "\n  " + violation;
  return text;
}

TEST(SimTest, SixtySeedsPass) {
  int succeeded = 0;
  int failed = 0;
  for (uint64_t seed = 1; seed <= 60; ++seed) {
    const SimReport report = RunScenario(MakeScenario(seed, Canary::kNone), /*verbose=*/false);
    EXPECT_TRUE(report.violations.empty()) << Join(report);
    succeeded += report.succeeded;
    failed += report.failed;
  }
  // The faults bite, and the cluster works.
  EXPECT_GT(succeeded, 60 * 10);
  EXPECT_GT(failed, 60);
}

// One run of a seed may be spared by a canary that needs traffic: of five, each kind must be
// caught.
void ExpectCaught(Canary canary) {
  int caught = 0;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    const SimReport report = RunScenario(MakeScenario(seed, canary), /*verbose=*/false);
    caught += report.violations.empty() ? 0 : 1;
  }
  EXPECT_GE(caught, 3);
}

TEST(SimTest, AWrongTokenIsCaught) { ExpectCaught(Canary::kToken); }
TEST(SimTest, APageUsedTwiceIsCaught) { ExpectCaught(Canary::kPage); }
TEST(SimTest, AWorkerThatNeverAnswersIsCaught) { ExpectCaught(Canary::kHang); }

TEST(SimTest, ASeedDeterminesTheRun) {
  for (uint64_t seed : {3, 17, 40}) {
    const SimReport one = RunScenario(MakeScenario(seed, Canary::kNone), /*verbose=*/false);
    const SimReport two = RunScenario(MakeScenario(seed, Canary::kNone), /*verbose=*/false);
    EXPECT_EQ(one.log_hash, two.log_hash) << seed;
    EXPECT_EQ(one.events, two.events) << seed;
  }
  EXPECT_NE(RunScenario(MakeScenario(3, Canary::kNone), false).log_hash,
            RunScenario(MakeScenario(4, Canary::kNone), false).log_hash);
}

}  // namespace
}  // namespace conclave
