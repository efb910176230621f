#include "kernels/moe_permute/moe_permute.h"

#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(rng.Uniform() * 4 - 2);
  return values;
}

TEST(BuildSlotTable, GroupsEntriesInOrder) {
  SlotTable table;
  BuildSlotTable({2, 0, 2, 3, 0, 2}, 5, table);
  EXPECT_EQ(table.first, (std::vector<int32_t>{0, 2, 2, 5, 6, 6}));
  EXPECT_EQ(table.order, (std::vector<int32_t>{1, 4, 0, 2, 5, 3}));
  // Reused for a smaller and an empty batch.
  BuildSlotTable({0}, 1, table);
  EXPECT_EQ(table.first, (std::vector<int32_t>{0, 1}));
  EXPECT_EQ(table.order, (std::vector<int32_t>{0}));
  BuildSlotTable({}, 2, table);
  EXPECT_EQ(table.first, (std::vector<int32_t>{0, 0, 0}));
  EXPECT_TRUE(table.order.empty());
  BuildSlotTable({}, 0, table);
  EXPECT_EQ(table.first, (std::vector<int32_t>{0}));
}

TEST(BuildSlotTable, EveryEntryOnceInItsSlot) {
  Rng rng(5);
  std::vector<int32_t> slots(1000);
  for (int32_t& s : slots) s = static_cast<int32_t>(rng.Below(37));
  SlotTable table;
  BuildSlotTable(slots, 37, table);
  std::vector<int> seen(1000, 0);
  for (int s = 0; s < 37; ++s) {
    for (int32_t i = table.first[s]; i < table.first[s + 1]; ++i) {
      EXPECT_EQ(slots[table.order[i]], s);
      if (i > table.first[s]) {
        EXPECT_LT(table.order[i - 1], table.order[i]);
      }
      ++seen[table.order[i]];
    }
  }
  EXPECT_EQ(seen, std::vector<int>(1000, 1));
}

TEST(BuildSlotTableDeathTest, RefusesASlotOutOfRange) {
  SlotTable table;
  EXPECT_DEATH(BuildSlotTable({3}, 3, table), "3 of 3");
  EXPECT_DEATH(BuildSlotTable({-1}, 3, table), "-1 of 3");
}

TEST(GatherRows, CopiesByIndex) {
  const auto x = RandomFloats(4 * 8, 1);
  std::vector<float> out(3 * 5, 0.0f);
  GatherRows({x.data(), 4, 5, 8}, {3, 0, 3}, {out.data(), 3, 5, 5});
  for (int i = 0; i < 5; ++i) {
    EXPECT_EQ(out[i], x[24 + i]);
    EXPECT_EQ(out[5 + i], x[i]);
    EXPECT_EQ(out[10 + i], x[24 + i]);
  }
}

TEST(Combine, HasTheBitsOfTheReferenceOnEveryTarget) {
  for (int slices : {1, 2, 4, 8}) {
    for (int top_k : {1, 2, 8}) {
      for (int64_t hidden : {16, 5, 64, 100}) {
        const int64_t tokens = 3, parts = tokens * top_k * slices;
        const auto part = RandomFloats(parts * hidden, 1);
        const auto weights = RandomFloats(tokens * top_k, 2);
        const auto residual = RandomFloats(tokens * hidden, 3);
        std::vector<int32_t> rows(parts);
        for (int64_t i = 0; i < parts; ++i) rows[i] = static_cast<int32_t>(parts - 1 - i);
        auto want = residual;
        CombineArgs args{{part.data(), parts, hidden, hidden}, rows, weights, top_k, slices,
                         {want.data(), tokens, hidden, hidden}};
        CombineRef(args);
        ForEachTarget([&](const std::string& target) {
          auto got = residual;
          args.out.data = got.data();
          Combine(args);
          EXPECT_EQ(got, want) << target;
        });
      }
    }
  }
}

TEST(Combine, WeighsAndAddsToTheResidual) {
  const std::vector<float> parts = {1, 2, 10, 20, 100, 200, 1000, 2000};
  std::vector<float> out = {0.5f, 0.25f};
  Combine({{parts.data(), 4, 2, 2}, {0, 1, 2, 3}, {2.0f, 3.0f}, 2, 2, {out.data(), 1, 2, 2}});
  EXPECT_EQ(out, (std::vector<float>{0.5f + 2 * 11 + 3 * 1100, 0.25f + 2 * 22 + 3 * 2200}));
}

}  // namespace
}  // namespace conclave
