#include "comm/types/expert_map.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ExpertMapTest, OwnersAndSlots) {
  const LayerExperts layer(2, {{0}, {1}, {2, 5}, {3}});
  EXPECT_EQ(layer.experts(), 2);
  EXPECT_EQ(layer.Owners({1, 0}).size(), 2u);
  EXPECT_EQ(layer.Owners({1, 0})[1], 5);
  EXPECT_EQ(layer.UnitsOf(5), (std::vector<ExpertUnit>{{1, 0}}));
  EXPECT_TRUE(layer.UnitsOf(4).empty());
  EXPECT_EQ(LayerExperts::FromTables(2, layer.first(), layer.ranks()), layer);
}

TEST(ExpertMapTest, AnUnownedSliceIsOurBug) {
  EXPECT_DEATH(LayerExperts(1, {{0}, {}}), "without an owner");
}

}  // namespace
}  // namespace conclave
