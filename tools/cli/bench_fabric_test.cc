#include "tools/cli/bench_fabric.h"

#include <atomic>
#include <set>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tools/cli/bench_fabric_cases.h"

namespace conclave {
namespace {

std::string Refusal(const BenchFabricOptions& options) {
  const absl::Status status = FabricCases(options).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
  return std::string(status.message());
}

TEST(BenchFabricTest, BadFlagsAreRefusedWithTheirValue) {
  EXPECT_TRUE(absl::StrContains(Refusal({.transport = "rdma"}), "--transport 'rdma'"));
  EXPECT_TRUE(absl::StrContains(Refusal({.sizes = {"many"}}), "--sizes 'many'"));
  EXPECT_TRUE(absl::StrContains(Refusal({.sizes = {"2GiB"}}), "--sizes 2GiB"));
  EXPECT_TRUE(absl::StrContains(Refusal({.collectives = {"gather"}}), "all_gather"));
  EXPECT_TRUE(absl::StrContains(Refusal({.ranks = 4, .tensor_parallel = {3}}), "--tp 3"));
  EXPECT_TRUE(absl::StrContains(Refusal({.top_k = 8, .experts = 4}), "--experts 4"));
}

TEST(BenchFabricTest, EveryPairCollectiveAndScheduleHasItsCase) {
  const auto cases = FabricCases({.sizes = {"64", "1KiB"},
                                  .ranks = 4,
                                  .tensor_parallel = {1, 2},
                                  .tokens = {1, 64}});
  ASSERT_TRUE(cases.ok()) << cases.status();
  const size_t pairs = 6, sizes = 2, kinds = BenchExchangeKinds().size();
  EXPECT_EQ(cases->size(),
            2 * pairs * sizes + FabricCollectives().size() * sizes + 2 * 2 * kinds);
  std::set<std::string> names;
  for (const FabricCase& c : *cases) names.insert(c.name);
  for (const std::string& name : FabricCaseNames()) EXPECT_EQ(names.count(name), 1u) << name;
}

TEST(BenchFabricTest, OnlyWhatIsAskedForIsMeasured) {
  const auto cases = FabricCases({.sizes = {"64"}, .ranks = 2, .collectives = {"stream"}});
  ASSERT_TRUE(cases.ok()) << cases.status();
  ASSERT_EQ(cases->size(), 1u);
  EXPECT_EQ((*cases)[0].reporter(), 1);
}

TEST(BenchFabricTest, FiguresSurviveTheWayToTheParent) {
  const FabricFigures figures = {7, 1e-7, 2.5e-6, 1.0 / 3, 4, 5, 6, 1e12, 2.25};
  const auto again = DecodeFigures(EncodeFigures(figures));
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(*again, figures);
  EXPECT_EQ(DecodeFigures("rank 2 has gone").status().message(), "rank 2 has gone");
  EXPECT_FALSE(DecodeFigures("figures 1 2").ok());
  EXPECT_FALSE(DecodeFigures("").ok());
}

TEST(BenchFabricTest, SmallWorldsAreMeasured) {
  const std::atomic<bool> cancelled{false};
  for (const char* transport : {"shm", "tcp"}) {
    BenchFabricOptions options = {.transport = transport, .sizes = {"64"}, .ranks = 2};
    options.tensor_parallel = {1, 2};
    options.tokens = {2};
    options.hidden = 64;
    options.seconds = 0.001;
    options.json = true;
    testing::internal::CaptureStdout();
    const absl::Status status = RunBenchFabric(options, cancelled);
    const std::string out = testing::internal::GetCapturedStdout();
    EXPECT_EQ(status, absl::OkStatus());
    for (const std::string& name : FabricCaseNames()) {
      EXPECT_TRUE(absl::StrContains(out, absl::StrCat("\"case\":\"", name, "\""))) << out;
    }
  }
}

TEST(BenchFabricTest, AnInterruptEndsIt) {
  const std::atomic<bool> cancelled{true};
  EXPECT_EQ(RunBenchFabric({.sizes = {"64"}, .ranks = 2}, cancelled).code(),
            absl::StatusCode::kCancelled);
}

}  // namespace
}  // namespace conclave
