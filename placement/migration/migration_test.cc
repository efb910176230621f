#include "placement/migration/migration.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <iterator>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "placement/migration/migration_checker.h"
#include "placement/migration/migration_test_inputs.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// The plan, checked.
MigrationPlan MustPlan(const MigrationInput& input) {
  const auto plan = PlanMigration(input);
  EXPECT_TRUE(plan.ok()) << plan.status();
  if (!plan.ok()) return {};
  EXPECT_TRUE(CheckMigration(input, *plan).ok()) << CheckMigration(input, *plan);
  return *plan;
}

std::vector<UnitMove> Copies(const MigrationPlan& plan) {
  std::vector<UnitMove> copies;
  std::copy_if(plan.moves.begin(), plan.moves.end(), std::back_inserter(copies),
               [](const UnitMove& move) { return move.kind == UnitMove::Kind::kCopy; });
  return copies;
}

void ExpectInvalid(const MigrationInput& input, const std::string& part) {
  const auto plan = PlanMigration(input);
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument) << plan.status();
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(part));
}

TEST(MigrationTest, EqualMapsNeedNoMove) {
  const MigrationPlan plan = MustPlan(MakeMigration({{0}, {1}}, {{0}, {1}}, 2));
  EXPECT_TRUE(plan.moves.empty());
  EXPECT_EQ(plan.waves, 0);
  EXPECT_EQ(plan.seconds, 0);
}

TEST(MigrationTest, CopiesThenDropsInTwoWavesWhereThereIsRoom) {
  MigrationInput input = MakeMigration({{0}, {1}}, {{1}, {0}}, 2);
  for (MigrationRank& rank : input.ranks) rank.free_bytes = 100;
  const MigrationPlan plan = MustPlan(input);
  EXPECT_EQ(plan.waves, 2);
  EXPECT_EQ(plan.moves.size(), 4u);
  EXPECT_EQ(plan.moved_bytes, 200);
  EXPECT_EQ(plan.lower_bound_bytes, 200);
  EXPECT_DOUBLE_EQ(plan.seconds,
                   1);  // 100 bytes at 100 bytes/s, both ways at once
}

TEST(MigrationTest, SwapWithoutRoomStepsAsideThroughAThirdRank) {
  MigrationInput input = MakeMigration({{0}, {1}}, {{1}, {0}}, 3);
  input.ranks[2].free_bytes = 100;
  const MigrationPlan plan = MustPlan(input);
  EXPECT_EQ(plan.moved_bytes, 300);
  EXPECT_EQ(plan.lower_bound_bytes, 200);
}

TEST(MigrationTest, CircleGivesWayBeforeTheOnlyRoomIsFilled) {
  // Rank 2 has room for one unit and is to fill it with a copy that stays.
  MigrationInput input = MakeMigration({{0}, {1}, {3}}, {{1}, {0}, {2, 3}}, 4);
  input.ranks[2].free_bytes = 100;
  const MigrationPlan plan = MustPlan(input);
  EXPECT_EQ(plan.moved_bytes, plan.lower_bound_bytes + 100);
}

TEST(MigrationTest, OneCircleOfManyUnitsTakesOneDetour) {
  // All of 3 x 8 units go to the next rank; only rank 3 has room, for one.
  std::vector<std::vector<int32_t>> from;
  std::vector<std::vector<int32_t>> to;
  for (int unit = 0; unit < 24; ++unit) {
    from.push_back({unit % 3});
    to.push_back({(unit + 1) % 3});
  }
  MigrationInput input = MakeMigration(from, to, 4);
  input.ranks[3].free_bytes = 100;
  EXPECT_EQ(MustPlan(input).moved_bytes, 2500);
}

TEST(MigrationTest, RoomWithinTheCircleTakesNoDetour) {
  // Rank 0 has room; taking the unit of rank 2 first would lose it to rank 2 for good.
  MigrationInput input = MakeMigration({{0}, {1}, {2}}, {{1}, {0}, {0}}, 3);
  input.ranks[0].free_bytes = 100;
  const MigrationPlan plan = MustPlan(input);
  EXPECT_EQ(plan.moved_bytes, 300);
}

TEST(MigrationTest, DropsASpareCopyWhereNoRankHasRoom) {
  // Expert 2 is on both ranks and stays: rank 0 or 1 drops it and gets it back.
  const MigrationPlan plan = MustPlan(MakeMigration({{0}, {1}, {0, 1}}, {{1}, {0}, {0, 1}}, 2));
  EXPECT_EQ(plan.moved_bytes, 300);
}

TEST(MigrationTest, UnitsOfSeveralSizesShareRoom) {
  MigrationInput input = MakeMigration({{0}, {1}}, {{1}, {0}}, 3);
  input.from.layers.emplace_back(1, std::vector<std::vector<int32_t>>{{0}, {1}});
  input.to.layers.emplace_back(1, std::vector<std::vector<int32_t>>{{1}, {0}});
  input.unit_bytes = {100, 200};
  input.ranks[2].free_bytes = 200;
  const MigrationPlan plan = MustPlan(input);
  EXPECT_EQ(plan.moved_bytes, plan.lower_bound_bytes + 200);
}

TEST(MigrationTest, NoRoomAnywhereIsExhaustedWithASufficientFigure) {
  MigrationInput input = MakeMigration({{0}, {1}}, {{1}, {0}}, 2);
  const auto plan = PlanMigration(input);
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(GiveWhatItNeeds(plan.status().message(), &input), 1);
  EXPECT_EQ(MustPlan(input).moved_bytes, 200);
}

TEST(MigrationTest, NewMapThatDoesNotFitNamesEveryRank) {
  MigrationInput input = MakeMigration({{0}, {0}, {0}}, {{1}, {1}, {2}}, 3);
  input.ranks[1].free_bytes = 50;
  const auto plan = PlanMigration(input);
  ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(plan.status().message()),
              HasSubstr("rank 1 needs 150 bytes more, rank 2 needs 100 bytes more"));
  EXPECT_EQ(GiveWhatItNeeds(plan.status().message(), &input), 2);
  EXPECT_EQ(MustPlan(input).moved_bytes, 300);
}

TEST(MigrationTest, ReadsFromItsOwnNode) {
  MigrationInput input = MakeMigration({{0, 2}}, {{0, 2, 3}}, 4);
  input.ranks[2].node = input.ranks[3].node = 1;
  input.ranks[3].free_bytes = 100;
  const std::vector<UnitMove> copies = Copies(MustPlan(input));
  ASSERT_EQ(copies.size(), 1u);
  EXPECT_EQ(copies[0].from, 2);
}

TEST(MigrationTest, SpreadsReadersOverHolders) {
  MigrationInput input = MakeMigration({{0, 1}}, {{0, 1, 2, 3, 4, 5}}, 6);
  for (MigrationRank& rank : input.ranks) rank.free_bytes = 100;
  const MigrationPlan plan = MustPlan(input);
  EXPECT_EQ(plan.waves, 1);
  EXPECT_DOUBLE_EQ(plan.seconds, 2);  // four readers, two holders, a second each
}

TEST(MigrationTest, StoreServesWhereItIsFasterThanTheLoadedNetwork) {
  MigrationInput input = MakeMigration({{0}, {0}, {0}, {0}}, {{0, 1}, {0, 2}, {0, 3}, {0, 4}}, 5);
  for (int r = 0; r < 5; ++r) {
    input.ranks[r] = {r, 100, 100.0, 10.0, r == 0 ? 0.0 : 5.0};
  }
  // The network takes 10 s for a copy and queues at rank 0; the store takes 20 s on every node.
  const MigrationPlan plan = MustPlan(input);
  EXPECT_DOUBLE_EQ(plan.seconds, 20);
  const std::vector<UnitMove> copies = Copies(plan);
  EXPECT_EQ(std::count_if(copies.begin(), copies.end(),
                          [](const UnitMove& copy) { return copy.from == -1; }),
            2);
}

TEST(MigrationTest, LostUnitsComeFromTheStoreOnce) {
  MigrationInput input = MakeMigration({{0}}, {{1, 2}}, 3);
  input.lost = {0};
  for (MigrationRank& rank : input.ranks) rank.free_bytes = 100;
  input.ranks[1].store_bandwidth = 1;
  const std::vector<UnitMove> copies = Copies(MustPlan(input));
  ASSERT_EQ(copies.size(), 2u);
  EXPECT_EQ(copies[0].from, -1);
  EXPECT_EQ(copies[0].to, 1);
  EXPECT_EQ(copies[1].from, 1);
}

TEST(MigrationTest, LostUnitComesThroughAnotherRanksStore) {
  MigrationInput input = MakeMigration({{0}, {1}}, {{2}, {1}}, 3);
  input.lost = {0};
  input.ranks[2].free_bytes = 100;
  input.ranks[1].store_bandwidth = 1;
  EXPECT_EQ(PlanMigration(input).status().code(), absl::StatusCode::kResourceExhausted);
  input.ranks[1].free_bytes = 100;
  EXPECT_EQ(MustPlan(input).moved_bytes, 200);
}

TEST(MigrationTest, LinkWithoutBandwidthTakesForever) {
  MigrationInput input = MakeMigration({{0}}, {{1}}, 2);
  input.ranks[1] = {1, 100, 0, 0, 0};
  EXPECT_TRUE(std::isinf(MustPlan(input).seconds));
}

TEST(MigrationTest, UnlimitedFreeBytesDoNotOverflow) {
  MigrationInput input = MakeMigration({{0}, {1}}, {{1}, {0}}, 2);
  for (MigrationRank& rank : input.ranks) rank.free_bytes = INT64_MAX;
  EXPECT_EQ(MustPlan(input).waves, 2);
}

TEST(MigrationTest, RefusesMapsOfDifferentShapes) {
  ExpectInvalid(MakeMigration({{0}, {1}}, {{0}}, 2), "layer 0 has 2 experts");
  MigrationInput input = MakeMigration({{0}}, {{0}}, 1);
  input.to.layers.emplace_back(1, std::vector<std::vector<int32_t>>{{0}});
  ExpectInvalid(input, "`from` has 1 layers, `to` 2");
  input = MakeMigration({{0}, {0}}, {{0}, {0}}, 1);
  input.to.layers[0] = LayerExperts(2, {{0}, {0}});
  ExpectInvalid(input, "only maps of one shape");
}

TEST(MigrationTest, RefusesTablesThatAreNone) {
  MigrationInput input = MakeMigration({{0}}, {{0}}, 1);
  input.from.layers[0] = LayerExperts::FromTables(1, {0, 5}, {0});
  ExpectInvalid(input, "is no row table");
  input.from.layers[0] = LayerExperts::FromTables(0, {0, 1}, {0});
  ExpectInvalid(input, "is no row table");
  input.from.layers[0] = LayerExperts::FromTables(1, {}, {});
  ExpectInvalid(input, "is no row table");
  input.from.layers[0] = LayerExperts::FromTables(1, {0, 0}, {});
  ExpectInvalid(input, "has no owner");
  input.from.layers[0] = LayerExperts::FromTables(1, {0, 1}, {3});
  ExpectInvalid(input, "owned by rank 3");
  input.from.layers[0] = LayerExperts::FromTables(1, {0, 2}, {0, 0});
  ExpectInvalid(input, "list owners once");
}

TEST(MigrationTest, RefusesBadRanksAndBytes) {
  MigrationInput input = MakeMigration({{0}}, {{1}}, 2);
  input.ranks[1].free_bytes = -1;
  ExpectInvalid(input, "ranks[1].free_bytes is -1");
  input.ranks[1] = {0, 100, -5, 1, 0};
  ExpectInvalid(input, "ranks[1].peer_bandwidth is -5");
  input.ranks[1] = {0, 100, 1, std::nan(""), 0};
  ExpectInvalid(input, "ranks[1].network_bandwidth");
  input.ranks[1] = {0, 100, 1, 1, 0};
  input.unit_bytes = {0};
  ExpectInvalid(input, "unit_bytes[0] is 0");
  input.unit_bytes = {INT64_MAX};
  ExpectInvalid(input, "1e18 in all");
  input.unit_bytes = {};
  ExpectInvalid(input, "unit_bytes 0");
}

TEST(MigrationTest, RefusesLostRanksAsTargetsAndUnitsWithoutASource) {
  MigrationInput input = MakeMigration({{0}}, {{1}}, 2);
  input.ranks[1].free_bytes = 100;
  input.lost = {2};
  ExpectInvalid(input, "lost has rank 2");
  input.lost = {1};
  ExpectInvalid(input, "to rank 1, which is lost");
  input.lost = {0};
  ExpectInvalid(input, "only on lost ranks");
  input.ranks[1].store_bandwidth = 1;
  EXPECT_EQ(MustPlan(input).moved_bytes, 100);
}

TEST(MigrationTest, DenseLayersHaveNoMoves) {
  MigrationInput input = MakeMigration({{0}}, {{1}}, 2);
  input.ranks[1].free_bytes = 100;
  input.from.layers.insert(input.from.layers.begin(), LayerExperts());
  input.to.layers.insert(input.to.layers.begin(), LayerExperts());
  input.unit_bytes = {0, 100};
  const MigrationPlan plan = MustPlan(input);
  ASSERT_EQ(plan.moves.size(), 2u);
  EXPECT_EQ(plan.moves[0].layer, 1);
}

}  // namespace
}  // namespace conclave
