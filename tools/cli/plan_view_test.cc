#include "tools/cli/plan_view.h"

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/plan_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;
using testing::Not;

TEST(PlanViewTest, FiguresKeepThreeDigits) {
  EXPECT_EQ(TimeText(0.0123456), "12.3 ms");
  EXPECT_EQ(TimeText(2.5), "2.50 s");
  EXPECT_EQ(TimeText(0.9999), "1.00 s");
  EXPECT_EQ(TimeText(4.2e-5), "42.0 us");
  EXPECT_EQ(BytesText(141e9), "141 GB");
  EXPECT_EQ(BytesText(999.9e6), "1.00 GB");
  EXPECT_EQ(BytesText(12), "12 B");
  EXPECT_EQ(CountText(1234567), "1,234,567");
  EXPECT_EQ(CountText(999.7), "1,000");
  EXPECT_EQ(CountText(8), "8");
  EXPECT_EQ(CountText(2.25), "2.25");
  EXPECT_EQ(RankRangesText({0, 1, 2, 5, 7, 8}), "0-2,5,7-8");
  EXPECT_EQ(GridText({8, 2, 1, 1, 16}), "tp=8,dp=2,pp=1,ep=16");
  EXPECT_EQ(GridText({8, 2, 4, 2, 8}), "tp=8,dp=2,pp=4,ep=8,slices=2");
  EXPECT_EQ(GridText({8, 1, 1, 1, 0}), "tp=8,dp=1,pp=1");
}

TEST(PlanViewTest, WrapsAtBlanks) {
  EXPECT_EQ(WrapText("one two three", 9, 2), "  one two\n  three\n");
  EXPECT_EQ(WrapText("unbreakable", 5, 1), " unbreakable\n");
  EXPECT_EQ(WrapText("", 80, 2), "");
}

TEST(PlanViewTest, VerdictAndStep) {
  const PlanDocument document = MadeUpDocument();
  EXPECT_EQ(RenderVerdict(document, {}),
            "tiny on 2 nodes, 4 x toy: tp=2,dp=2,pp=1,ep=4, pcc exchange\n"
            "  12.5 ms a token, first token after 250 ms, 640 tokens/s with 8 sequences on 4 "
            "devices, 1.50 a\n"
            "  million tokens out; memory holds 1,234 sequences\n");
  EXPECT_EQ(RenderStep(document, {}),
            "\nA DECODE STEP OF 8 SEQUENCES: 12.5 ms, BOUND BY " +
                std::string(BoundName(Bound::kBandwidth)) +
                "\n"
                "  experts                6.250 ms  50.0 %  ###############\n"
                "  exchange               3.750 ms  30.0 %  #########\n"
                "  attention weights      2.500 ms  20.0 %  ######\n"
                "  The ranks read 20.0 GB in a step, 40 % of what their memories could; a prompt "
                "of 512 tokens takes\n"
                "  12.5 ms.\n");
}

TEST(PlanViewTest, LinksNameTheBusiestRank) {
  EXPECT_EQ(RenderLinks(TinyInputs(), MadeUpDocument().result.best),
            "  LINKS           BYTES     MESSAGES         BUSIEST RANK SENDS\n"
            "  fast          4.00 MB            0      1.00 MB (rank 0)\n"
            "  network       10.0 kB        2,400      4.00 kB (rank 3)\n");
  PricedPlan silent = MadeUpDocument().result.best;
  silent.decode.ranks.assign(4, RankCost());
  EXPECT_EQ(RenderLinks(TinyInputs(), silent), "  Nothing crosses a link.\n");
  // Two stages on two nodes: each of two ranks hands over half of 8 tokens of 1,024 bf16 numbers.
  PricedPlan staged = MadeUpPlan({1, 2, 2, 1, 2}, 0.01, "");
  staged.decode.ranks.assign(4, RankCost());
  const std::vector<LinkRow> rows = LinkRows(TinyInputs(), staged);
  ASSERT_EQ(rows.size(), 1);
  EXPECT_EQ(rows[0].link, LinkClass::kNetwork);
  EXPECT_EQ(rows[0].bytes, 8 * 1024 * 2);
  EXPECT_EQ(rows[0].messages, 2);
}

TEST(PlanViewTest, RunnersUpSayWhatTheyLose) {
  EXPECT_EQ(RenderRunnersUp(MadeUpDocument().result, {}),
            "\nNEXT BEST\n"
            "     GRID                         EXCHANGE   DEVS     TPOT     TTFT  TOKENS/S   "
            "COST/M\n"
            "  1  tp=2,dp=2,pp=1,ep=4          pcc           4  12.5 ms   250 ms       640     "
            "1.50\n"
            "  2  tp=1,dp=4,pp=1,ep=4          pcc           4  20.0 ms   250 ms       400     "
            "1.50\n"
            "     loses 60 % to <more> peers\n"
            "  24 candidates priced, 3 too large, 0 beyond a limit.\n");
}

TEST(PlanViewTest, ALossNeedsNoSecondDescriptionOfItsPlan) {
  const ParallelSpec spec = {1, 4, 1, 1, 4};
  EXPECT_EQ(LossText(MadeUpPlan(spec, 1, "loses 60 %")), "loses 60 %");
  const std::string note = spec.ToString() + " (pcc) on 4 devices, layers 2+2: 20 ms, loses 60 %";
  EXPECT_EQ(LossText(MadeUpPlan(spec, 1, note)), "layers 2+2: 20 ms, loses 60 %");
}

TEST(PlanViewTest, LikeRanksShareALine) {
  const PlanDocument document = MadeUpDocument();
  const std::vector<RankGroup> groups = GroupRanks(document);
  ASSERT_EQ(groups.size(), 1);
  EXPECT_EQ(groups[0].ranks, (std::vector<int>{0, 1, 2, 3}));
  EXPECT_EQ(groups[0].experts, 2);
  EXPECT_EQ(groups[0].memory.capacity, 8e9);
  const std::string text = RenderMemory(document, {});
  EXPECT_THAT(text, HasSubstr("  0-3      0-3           2"));
  // Ranks that hold more experts than others stand apart.
  PlanDocument uneven = document;
  uneven.result.best.candidate.expert_shares = {0.5, 0.25, 0.125, 0.125};
  uneven.experts = *PlaceExperts(uneven.inputs.search.model, uneven.inputs.search.cluster,
                                 uneven.result.best.candidate, {});
  EXPECT_EQ(GroupRanks(uneven).size(), 3);
}

TEST(PlanViewTest, TheTableFitsAndNeedsNoColours) {
  const PlanDocument document = MadeUpDocument();
  const std::string plain = RenderPlanTable(document, {80, false});
  EXPECT_THAT(plain, Not(HasSubstr("\x1b")));
  for (const absl::string_view line : absl::StrSplit(plain, '\n')) {
    EXPECT_LE(line.size(), 86) << line;  // the widest: runners-up with costs
  }
  for (const char* part : {"WHY", "Experts bind", "MEMORY", "DECODE STEP", "TRAFFIC", "NEXT BEST",
                           "ASKED", "expert load"}) {
    EXPECT_THAT(plain, HasSubstr(part));
  }
  std::string coloured = RenderPlanTable(document, {80, true});
  EXPECT_THAT(coloured, HasSubstr("\x1b[1m"));
  for (size_t at = coloured.find('\x1b'); at != std::string::npos; at = coloured.find('\x1b')) {
    coloured.erase(at, coloured.find('m', at) - at + 1);
  }
  EXPECT_EQ(coloured, plain);
}

}  // namespace
}  // namespace conclave
