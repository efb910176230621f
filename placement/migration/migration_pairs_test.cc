// 10,000 random pairs of maps, and what is promised of all of them.
#include <algorithm>
#include <array>
#include <numeric>
#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "placement/migration/migration.h"
#include "placement/migration/migration_checker.h"
#include "placement/migration/migration_test_inputs.h"

namespace conclave {
namespace {

constexpr double kBytesMax = 1.05;  // moved bytes over the lower bound

// Whether some unit is only in stores, and no rank that misses it has one: it goes through another.
bool NeedsSeed(const MigrationInput& input) {
  const std::set<int> lost(input.lost.begin(), input.lost.end());
  for (size_t layer = 0; layer < input.to.layers.size(); ++layer) {
    const LayerExperts& to = input.to.layers[layer];
    for (int row = 0; row < to.experts() * to.slices(); ++row) {
      const ExpertUnit unit = {row / to.slices(), row % to.slices()};
      const auto old_owners = input.from.layers[layer].Owners(unit);
      const auto new_owners = to.Owners(unit);
      const bool live = std::any_of(old_owners.begin(), old_owners.end(),
                                    [&](int32_t rank) { return lost.count(rank) == 0; });
      const bool store = std::any_of(new_owners.begin(), new_owners.end(), [&](int32_t rank) {
        return input.ranks[rank].store_bandwidth > 0;
      });
      if (!live && !store) return true;
    }
  }
  return false;
}

struct Totals {
  int pairs = 0;
  int exhausted = 0;
  double moved_bytes = 0;
  double lower_bound_bytes = 0;
};

// A ResourceExhausted must be cured by what its message asks for.
void CheckExhausted(const absl::Status& status, MigrationInput input) {
  ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  ASSERT_GT(GiveWhatItNeeds(status.message(), &input), 0) << status;
  const auto plan = PlanMigration(input);
  ASSERT_TRUE(plan.ok()) << "after " << status << ": " << plan.status();
  ASSERT_TRUE(CheckMigration(input, *plan).ok()) << CheckMigration(input, *plan);
}

void CheckPair(const RandomMigration& made, Totals* totals) {
  ++totals->pairs;
  const auto plan = PlanMigration(made.input);
  if (!plan.ok()) {
    ++totals->exhausted;
    ASSERT_TRUE(made.memory != FreeMemory::kPlenty || NeedsSeed(made.input)) << plan.status();
    CheckExhausted(plan.status(), made.input);
    return;
  }
  const absl::Status checked = CheckMigration(made.input, *plan);
  ASSERT_TRUE(checked.ok()) << checked;
  totals->moved_bytes += static_cast<double>(plan->moved_bytes);
  totals->lower_bound_bytes += static_cast<double>(plan->lower_bound_bytes);
  if (made.memory == FreeMemory::kPlenty && !NeedsSeed(made.input)) {
    ASSERT_EQ(plan->moved_bytes, plan->lower_bound_bytes);
    ASSERT_LE(plan->waves, 3);  // one more where a unit comes from a store first
  }
}

TEST(MigrationPairsTest, TenThousandPairsKeepEveryPromise) {
  std::array<Totals, 3> totals;  // by FreeMemory
  for (uint64_t seed = 0; seed < 10'000; ++seed) {
    Rng rng(seed);
    RandomMigrationOptions options;
    options.even_bytes = rng.Chance(1, 2);
    const RandomMigration made = MakeRandomMigration(options, &rng);
    CheckPair(made, &totals[static_cast<size_t>(made.memory)]);
    ASSERT_FALSE(HasFatalFailure()) << "seed " << seed;
  }
  for (const Totals& total : totals) {
    EXPECT_GT(total.pairs, 3000);
    EXPECT_LE(total.exhausted, total.pairs / 100);
    EXPECT_LE(total.moved_bytes, kBytesMax * total.lower_bound_bytes);
  }
}

TEST(MigrationPairsTest, EachLargerPairIsWithinTheBound) {
  for (uint64_t seed = 0; seed < 200; ++seed) {
    Rng rng(seed, 1);
    RandomMigrationOptions options;
    options.even_bytes = seed % 2 == 0;
    options.experts_max = 64;
    options.lost_ranks = false;
    const RandomMigration made = MakeRandomMigration(options, &rng);
    const auto plan = PlanMigration(made.input);
    if (!plan.ok()) {
      CheckExhausted(plan.status(), made.input);
      continue;
    }
    ASSERT_TRUE(CheckMigration(made.input, *plan).ok()) << "seed " << seed;
    if (plan->lower_bound_bytes < int64_t{40} << 20) continue;  // one detour may be more than 5 %
    EXPECT_LE(static_cast<double>(plan->moved_bytes),
              kBytesMax * static_cast<double>(plan->lower_bound_bytes))
        << "seed " << seed;
  }
}

// Groups of ranks that exchange units, none of which has room: README.md proves that each takes
// exactly one more copy.
int ClosedCircles(const MigrationInput& input) {
  std::vector<int> group(input.ranks.size());
  std::iota(group.begin(), group.end(), 0);
  std::set<int> moving;
  for (size_t layer = 0; layer < input.to.layers.size(); ++layer) {
    const LayerExperts& to = input.to.layers[layer];
    for (int row = 0; row < to.experts() * to.slices(); ++row) {
      const ExpertUnit unit = {row / to.slices(), row % to.slices()};
      const int a = group[input.from.layers[layer].Owners(unit)[0]];
      const int b = group[to.Owners(unit)[0]];
      if (input.from.layers[layer].Owners(unit)[0] == to.Owners(unit)[0]) continue;
      std::replace(group.begin(), group.end(), std::max(a, b), std::min(a, b));
      moving.insert(to.Owners(unit)[0]);
    }
  }
  std::set<int> closed;
  for (const int rank : moving) closed.insert(group[rank]);
  for (size_t r = 0; r < group.size(); ++r) {
    if (input.ranks[r].free_bytes > 0) closed.erase(group[r]);
  }
  return static_cast<int>(closed.size());
}

TEST(MigrationPairsTest, UnitsOfOneSizeTakeOneDetourForEachClosedCircle) {
  int detours = 0;
  for (uint64_t seed = 0; seed < 5'000; ++seed) {
    Rng rng(seed, 2);
    RandomMigrationOptions options;
    options.even_bytes = true;
    options.copies_max = 1;
    options.experts_max = 3;  // more, and they join into one circle
    options.lost_ranks = false;
    const RandomMigration made = MakeRandomMigration(options, &rng);
    const int closed = ClosedCircles(made.input);
    const bool room = std::any_of(made.input.ranks.begin(), made.input.ranks.end(),
                                  [](const MigrationRank& rank) { return rank.free_bytes > 0; });
    const auto plan = PlanMigration(made.input);
    if (closed > 0 && !room) {
      ASSERT_EQ(plan.status().code(), absl::StatusCode::kResourceExhausted) << "seed " << seed;
      continue;
    }
    ASSERT_TRUE(plan.ok()) << "seed " << seed << ": " << plan.status();
    ASSERT_EQ(plan->moved_bytes, plan->lower_bound_bytes + (int64_t{closed} << 20))
        << "seed " << seed;
    detours += closed;
  }
  EXPECT_GT(detours, 100);
}

TEST(MigrationPairsTest, SameInputSamePlan) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    Rng rng(seed, 3);
    const RandomMigration made = MakeRandomMigration({}, &rng);
    const auto first = PlanMigration(made.input);
    const auto second = PlanMigration(made.input);
    ASSERT_EQ(first.status(), second.status());
    if (first.ok()) {
      EXPECT_EQ(first->moves, second->moves);
    }
  }
}

// A tenth and all of the units of 61 layers of 384 experts move among 1,024 ranks.
TEST(MigrationPairsTest, LargeClusters) {
  for (const int percent : {10, 100}) {
    for (const bool room_on_one_rank_only : {false, true}) {
      Rng rng(9, percent);
      MigrationInput input = MakeLargeMigration(61, 384, 1024, percent, &rng);
      if (room_on_one_rank_only) {
        for (size_t r = 1; r < input.ranks.size(); ++r) input.ranks[r].free_bytes = 0;
      }
      const auto plan = PlanMigration(input);
      ASSERT_TRUE(plan.ok()) << plan.status();
      ASSERT_TRUE(CheckMigration(input, *plan).ok()) << CheckMigration(input, *plan);
      EXPECT_EQ(plan->moved_bytes, plan->lower_bound_bytes);
      if (!room_on_one_rank_only) {
        EXPECT_LE(plan->waves, 100);
      }
    }
  }
}

}  // namespace
}  // namespace conclave
