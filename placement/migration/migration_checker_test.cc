#include "placement/migration/migration_checker.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "placement/migration/migration_test_inputs.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

constexpr auto kCopy = UnitMove::Kind::kCopy;
constexpr auto kDrop = UnitMove::Kind::kDrop;

// Expert 0 goes from rank 0 to rank 1, which has room for it alone.
MigrationInput OneMove() {
  MigrationInput input = MakeMigration({{0}}, {{1}}, 3);
  input.ranks[1].free_bytes = 100;
  return input;
}

MigrationPlan OneMovePlan() {
  MigrationPlan plan;
  plan.moves = {{kCopy, 0, {0, 0}, 0, 1, 0}, {kDrop, 0, {0, 0}, -1, 0, 1}};
  plan.waves = 2;
  plan.moved_bytes = plan.lower_bound_bytes = 100;
  plan.seconds = 1;
  return plan;
}

void ExpectWrong(const MigrationInput& input, const MigrationPlan& plan, const char* part) {
  const absl::Status status = CheckMigration(input, plan);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr(part));
}

TEST(MigrationCheckerTest, AcceptsAGoodPlan) {
  EXPECT_TRUE(CheckMigration(OneMove(), OneMovePlan()).ok());
}

TEST(MigrationCheckerTest, DropInTheWaveOfItsCopyLeavesNoOwner) {
  MigrationPlan plan = OneMovePlan();
  plan.moves[1].wave = 0;
  plan.waves = 1;
  ExpectWrong(OneMove(), plan, "no owner from before the wave");
}

TEST(MigrationCheckerTest, SourceMustHoldTheUnitThroughTheWave) {
  MigrationPlan plan = OneMovePlan();
  plan.moves[0].from = 2;
  ExpectWrong(OneMove(), plan, "the source lacks it");
  plan.moves[0].from = -1;
  ExpectWrong(OneMove(), plan, "no store");
  MigrationInput input = MakeMigration({{0, 2}}, {{1, 2}}, 3);
  input.ranks[1].free_bytes = 100;
  plan = OneMovePlan();
  plan.moves[1].wave = 0;
  plan.waves = 1;
  ExpectWrong(input, plan, "drops it in the same wave");
}

TEST(MigrationCheckerTest, MemoryIsNeededBeforeTheWaveFreesAny) {
  MigrationInput input = MakeMigration({{0, 1}, {0}}, {{0}, {1}}, 2);
  MigrationPlan plan;
  plan.moves = {
      {kDrop, 0, {0, 0}, -1, 1, 0}, {kCopy, 0, {1, 0}, 0, 1, 0}, {kDrop, 0, {1, 0}, -1, 0, 1}};
  plan.waves = 2;
  plan.moved_bytes = plan.lower_bound_bytes = 100;
  plan.seconds = 1;
  ExpectWrong(input, plan, "needs 200 bytes of 100");
  plan.moves[1].wave = 1;
  plan.moves[2].wave = 2;
  plan.waves = 3;
  EXPECT_TRUE(CheckMigration(input, plan).ok()) << CheckMigration(input, plan);
}

TEST(MigrationCheckerTest, EndsOnTheNewMap) {
  MigrationPlan plan = OneMovePlan();
  plan.moves.pop_back();
  plan.waves = 1;
  ExpectWrong(OneMove(), plan, "does not end on the ranks");
}

TEST(MigrationCheckerTest, CountsAgain) {
  MigrationPlan plan = OneMovePlan();
  plan.moved_bytes = 99;
  ExpectWrong(OneMove(), plan, "moved_bytes is 99");
  plan = OneMovePlan();
  plan.lower_bound_bytes = 0;
  ExpectWrong(OneMove(), plan, "lower_bound_bytes is 0");
  plan = OneMovePlan();
  plan.seconds = 0.5;
  ExpectWrong(OneMove(), plan, "seconds is 0.5");
  plan = OneMovePlan();
  plan.waves = 3;
  ExpectWrong(OneMove(), plan, "waves is 3");
  plan = OneMovePlan();
  plan.moves[0].wave = 1;
  ExpectWrong(OneMove(), plan, "wave 0 comes next");
}

TEST(MigrationCheckerTest, NamesWhatDoesNotExist) {
  MigrationPlan plan = OneMovePlan();
  plan.moves[0].to = 7;
  ExpectWrong(OneMove(), plan, "no such live rank");
  plan = OneMovePlan();
  plan.moves[0].layer = 1;
  ExpectWrong(OneMove(), plan, "no such layer");
  plan = OneMovePlan();
  plan.moves[0].unit.slice = 1;
  ExpectWrong(OneMove(), plan, "no such unit");
  plan = OneMovePlan();
  plan.moves[1].to = 2;
  ExpectWrong(OneMove(), plan, "does not hold it before the wave");
}

}  // namespace
}  // namespace conclave
