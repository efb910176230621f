#include "worker/engine/assignment.h"

#include <functional>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

// 4 layers, 4 experts, on tp=2, dp=2: one expert for each rank of the stage.
Assign GoodAssign(int rank) {
  Assign assign;
  ModelShape& shape = assign.shape;
  shape.architecture = Architecture::kMixtral;
  shape.layers = 4;
  shape.hidden = 64;
  shape.heads = 4;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.vocab = 512;
  shape.moe = {4, 2, 32, true};
  assign.plan.spec = {2, 2, 2, 1, 4};
  assign.plan.stages = {{0, 2}, {2, 4}};
  for (int layer = 0; layer < 4; ++layer) {
    assign.plan.experts.layers.emplace_back(1,
                                            std::vector<std::vector<int32_t>>{{0}, {1}, {2}, {3}});
  }
  assign.rank = rank;
  return assign;
}

TEST(AssignmentTest, AcceptsAGoodOne) {
  for (int rank = 0; rank < 8; ++rank) {
    EXPECT_TRUE(CheckAssign(GoodAssign(rank)).ok()) << CheckAssign(GoodAssign(rank));
  }
}

TEST(AssignmentTest, RefusesWhatCannotBeObeyed) {
  struct Case {
    const char* says;
    std::function<void(Assign&)> spoil;
  };
  const auto tables = [](std::vector<int32_t> first, std::vector<int32_t> ranks) {
    return [first, ranks](Assign& a) {
      a.plan.experts.layers[1] = LayerExperts::FromTables(1, first, ranks);
    };
  };
  const std::vector<Case> cases = {
      {"rank 8 of 8", [](Assign& a) { a.rank = 8; }},
      {"rank -1", [](Assign& a) { a.rank = -1; }},
      {"1 stages for pp=2",
       [](Assign& a) {
         a.plan.stages = {{0, 4}};
       }},
      {"[1, 4)", [](Assign& a) { a.plan.stages[1].begin = 1; }},
      {"end at layer 3 of 4", [](Assign& a) { a.plan.stages[1].end = 3; }},
      {"tp=3", [](Assign& a) { a.plan.spec.tp = 3; }},
      {"ep=3", [](Assign& a) { a.plan.spec.ep = 3; }},
      {"map of 3 layers", [](Assign& a) { a.plan.experts.layers.pop_back(); }},
      {"top_k 5", [](Assign& a) { a.shape.moe.top_k = 5; }},
      {"is not possible", [](Assign& a) { a.shape.hidden = 0; }},
      {"is not possible", [](Assign& a) { a.shape.kv_heads = 3; }},
      {"do not fit together", tables({0, 1, 2, 3, 9}, {0, 1, 2, 3})},
      {"do not fit together", tables({1, 2, 3, 4, 4}, {0, 1, 2, 3})},
      {"slice 0 of expert 1 has no owner", tables({0, 1, 1, 3, 4}, {0, 1, 2, 3})},
      {"owned by stage rank 4 of 4", tables({0, 1, 2, 3, 4}, {0, 1, 2, 4})},
      {"owned by stage rank -1", tables({0, 1, 2, 3, 4}, {0, -1, 2, 3})},
      {"expert map of 3 units", tables({0, 1, 2, 3}, {0, 1, 2})},
  };
  for (const Case& c : cases) {
    Assign assign = GoodAssign(0);
    c.spoil(assign);
    const absl::Status status = CheckAssign(assign);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.says;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.says));
  }
}

TEST(AssignmentTest, AKeyTellsWhichWeightsARankHolds) {
  const WeightKey key = WeightKeyOf(GoodAssign(5));  // pp 1, dp 0, tp 1
  EXPECT_EQ(key.layers, (LayerRange{2, 4}));
  EXPECT_EQ(key.tp, 1);
  EXPECT_FALSE(key.first_stage);
  EXPECT_TRUE(key.last_stage);
  EXPECT_EQ(key.units, (std::vector<std::vector<ExpertUnit>>{{{1, 0}}, {{1, 0}}}));

  // Another epoch, another rank's experts, another name of the same model: the same weights.
  Assign other = GoodAssign(5);
  other.plan.epoch = Epoch{9};
  other.shape.name = "alias";
  other.plan.experts.layers[3] =
      LayerExperts(1, std::vector<std::vector<int32_t>>{{0, 2}, {1}, {2}, {3}});
  EXPECT_EQ(WeightKeyOf(other), key);
  other.plan.experts.layers[3] =
      LayerExperts(1, std::vector<std::vector<int32_t>>{{0, 1}, {1}, {2}, {3}});
  EXPECT_FALSE(WeightKeyOf(other) == key);
}

TEST(AssignmentTest, BytesCoverTheSlices) {
  Assign whole = GoodAssign(0);
  whole.plan.spec = {1, 1, 1, 1, 1};
  whole.plan.stages = {{0, 4}};
  for (LayerExperts& layer : whole.plan.experts.layers) {
    layer = LayerExperts(1, std::vector<std::vector<int32_t>>{{0}, {0}, {0}, {0}});
  }
  const int64_t all = WeightBytesAtLeast(whole);
  EXPECT_LE(all, 2 * whole.shape.TotalParameters());
  EXPECT_GE(all, 2 * (whole.shape.TotalParameters() - 2 * 512 * 64));
  EXPECT_LT(WeightBytesAtLeast(GoodAssign(0)) * 3, all);
}

TEST(AssignmentTest, KvHeadsAreSharedWhenTpExceedsThem) {
  Assign assign = GoodAssign(0);
  EXPECT_EQ(KvGeometryOf(assign).kv_heads, 1);
  EXPECT_EQ(KvGeometryOf(assign).layers, 2);
  assign.plan.spec.tp = 4;
  EXPECT_EQ(KvGeometryOf(assign).kv_heads, 1);
  assign.plan.spec.tp = 1;
  EXPECT_EQ(KvGeometryOf(assign).kv_heads, 2);
}

}  // namespace
}  // namespace conclave
