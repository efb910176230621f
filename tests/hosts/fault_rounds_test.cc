// A few rounds of fault_rounds: each kind of fault, and each phase, once or more. Skips, with one
// line that says why, where the process may not make namespaces.
#include "tests/hosts/fault_rounds.h"

#include <set>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "tests/hosts/namespaces.h"

namespace conclave {
namespace {

TEST(FaultPlanTest, TwentyFiveRoundsHaveEachFaultAtEachPhase) {
  std::set<std::pair<FaultKind, FaultPhase>> pairs;
  for (int round = 0; round < 25; ++round) {
    const FaultPlan plan = DrawFault({}, 3, round);
    pairs.insert({plan.kind, plan.phase});
    EXPECT_TRUE(plan.victim >= 0 && plan.victim < 8);
    EXPECT_EQ(8 % plan.exchange.tp, 0);
    EXPECT_EQ(ParseExchangeCase(plan.exchange.ToString()).value(), plan.exchange);
    if (plan.phase == FaultPhase::kInGather) {
      EXPECT_GT(plan.exchange.tp, 1);  // or there is none
    }
  }
  EXPECT_EQ(pairs.size(), 25u);
}

TEST(FaultPlanTest, FaultsOfALinkHitAllRanksOfTheHost) {
  FaultPlan plan;
  plan.victim = 5;
  EXPECT_EQ(plan.Victims(2), std::vector<int>({5}));
  plan.kind = FaultKind::kBlackHole;
  EXPECT_EQ(plan.Victims(2), std::vector<int>({4, 5}));
  EXPECT_EQ(plan.Victims(1), std::vector<int>({5}));
}

TEST(ExchangeCaseTest, BadTextNamesTheField) {
  const auto error = [](absl::string_view text) {
    return std::string(ParseExchangeCase(text).status().message());
  };
  EXPECT_EQ(error("ranks=0"), "exchange case: 'ranks=0'; give at most 4096");
  EXPECT_EQ(error("schedule=fast"),
            absl::StrCat("exchange case: 'schedule=fast'; ",
                         ParseExchangeKind("fast").status().message()));
  EXPECT_EQ(error("width=3"), "exchange case: 'width=3'; there is no such field");
  EXPECT_EQ(error("tp=x"), "exchange case: 'tp=x'; give a number");
  EXPECT_EQ(error("ranks=6 tp=4"),
            "exchange case: 'ranks=6 tp=4'; tp divides ranks, top_k is at most experts");
}

TEST(FaultRoundsTest, SurvivorsBlameTheVictimsAndGoOn) {
  const absl::Status rights = CheckNamespaceRights();
  if (!rights.ok()) GTEST_SKIP() << rights.message();
  FaultRoundsOptions options;
  options.rounds = 10;
  options.first = 20;  // in the gather, then before the dispatch
  options.seed = 11;
  options.tolerance = absl::Seconds(5);  // tests share the machine; fault_rounds measures
  const auto rounds = FaultRounds::Create(options);
  ASSERT_TRUE(rounds.ok()) << rounds.status();
  const auto result = (*rounds)->Run();
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->rounds, 10);
  EXPECT_EQ(result->violations, std::vector<std::string>());
  EXPECT_EQ(result->detections.size(), 10u);
  EXPECT_GE(result->reports, 10 * 6);
}

}  // namespace
}  // namespace conclave
