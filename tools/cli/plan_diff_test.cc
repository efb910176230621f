#include "tools/cli/plan_diff.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tools/cli/exact_json.h"
#include "tools/cli/plan_test_kit.h"

namespace conclave {
namespace {

using testing::HasSubstr;

PlanDocument Document(const PlanInputs& inputs, const ParallelSpec& spec) {
  PlanInputs given = inputs;
  given.search.spec = spec;
  absl::StatusOr<PlanDocument> document = MakePlanDocument(given);
  EXPECT_TRUE(document.ok()) << document.status();
  return *std::move(document);
}

int Copies(const PlanDiff& diff) {
  return static_cast<int>(
      std::count_if(diff.migration.moves.begin(), diff.migration.moves.end(),
                    [](const auto& m) { return m.kind == UnitMove::Kind::kCopy; }));
}

double ExpertBytes() {
  return TinyModel().ExpertWeights() * NumberFormatBytes(NumberFormat::kBf16);
}

TEST(PlanDiffTest, APlanDoesNotDifferFromItself) {
  const PlanDocument plan = Document(TinyInputs(), {2, 2, 1, 1, 4});
  const absl::StatusOr<PlanDiff> diff = DiffPlans(plan, plan);
  ASSERT_TRUE(diff.ok()) << diff.status();
  EXPECT_TRUE(diff->changes.empty());
  EXPECT_TRUE(diff->movable.ok()) << diff->movable;
  EXPECT_EQ(diff->migration.moves.size(), 0);
  EXPECT_EQ(diff->other_bytes, 0);
  EXPECT_THAT(RenderDiff(*diff, {}), HasSubstr("none"));
}

TEST(PlanDiffTest, AMovedExpertIsOneCopyAndOneDrop) {
  const PlanDocument before = Document(TinyInputs(), {1, 4, 1, 1, 4});
  PlanDocument after = before;
  // Expert 0 of layer 2 goes from rank 0 to rank 3.
  std::vector<std::vector<int32_t>> owners;
  for (int expert = 0; expert < 8; ++expert) owners.push_back({expert / 2});
  owners[0] = {3};
  after.experts.map.layers[2] = LayerExperts(1, owners);
  const absl::StatusOr<PlanDiff> diff = DiffPlans(before, after);
  ASSERT_TRUE(diff.ok()) << diff.status();
  ASSERT_TRUE(diff->movable.ok()) << diff->movable;
  EXPECT_EQ(Copies(*diff), 1);
  EXPECT_EQ(diff->migration.moved_bytes, static_cast<int64_t>(ExpertBytes()));
  EXPECT_GT(diff->migration.seconds, 0);
  EXPECT_EQ(diff->other_bytes, 0);
  ASSERT_GE(diff->by_device.size(), 1);
  EXPECT_EQ(diff->by_device[0].device, "node-1/1");
  EXPECT_EQ(diff->by_device[0].gains, 1);
  const std::string json = PrettyJson(DiffToJson(*diff));
  EXPECT_THAT(json, HasSubstr("\"to\": \"node-1/1\""));
  EXPECT_THAT(json, HasSubstr("\"layer\": 2"));
}

TEST(PlanDiffTest, GridsOfOtherShapesAreComparedByDevice) {
  const PlanDocument before = Document(TinyInputs(), {1, 4, 1, 1, 4});
  const PlanDocument after = Document(TinyInputs(), {2, 2, 1, 2, 2});
  const absl::StatusOr<PlanDiff> diff = DiffPlans(before, after);
  ASSERT_TRUE(diff.ok()) << diff.status();
  ASSERT_TRUE(diff->movable.ok()) << diff->movable;
  // Devices 0 and 1 held experts 0-3 whole and now hold one half of each: half of what they hold
  // is new to each. So it is with the other two: 3 layers x 8 experts x half an expert.
  EXPECT_EQ(Copies(*diff), 3 * 8);
  EXPECT_EQ(diff->migration.moved_bytes, static_cast<int64_t>(3 * 8 * ExpertBytes() / 2));
  EXPECT_GT(diff->other_bytes, 0);
  EXPECT_TRUE(std::any_of(diff->changes.begin(), diff->changes.end(),
                          [](const FieldChange& change) { return change.name == "grid"; }));
}

TEST(PlanDiffTest, ALostNodeIsReadFromTheStore) {
  PlanInputs inputs = TinyInputs();
  const PlanDocument before = Document(inputs, {1, 4, 1, 1, 4});
  inputs.search.cluster.nodes.pop_back();
  const PlanDocument after = Document(inputs, {1, 2, 1, 1, 2});
  const absl::StatusOr<PlanDiff> diff = DiffPlans(before, after);
  ASSERT_TRUE(diff.ok()) << diff.status();
  ASSERT_TRUE(diff->movable.ok()) << diff->movable;
  // Experts 4-7 of each MoE layer are gone with node-1; some of those of node-0 change device.
  int from_store = 0;
  for (const UnitMove& move : diff->migration.moves) {
    if (move.kind == UnitMove::Kind::kCopy && move.from < 0) ++from_store;
  }
  EXPECT_EQ(from_store, 3 * 4);
}

TEST(PlanDiffTest, OtherModelsAreLoadedAnew) {
  PlanInputs inputs = TinyInputs();
  const PlanDocument before = Document(inputs, {1, 4, 1, 1, 4});
  inputs.search.model.expert_format = NumberFormat::kFp8;
  const PlanDocument after = Document(inputs, {1, 4, 1, 1, 4});
  const absl::StatusOr<PlanDiff> diff = DiffPlans(before, after);
  ASSERT_TRUE(diff.ok()) << diff.status();
  EXPECT_FALSE(diff->movable.ok());
  EXPECT_THAT(RenderDiff(*diff, {}), HasSubstr("anew"));
}

}  // namespace
}  // namespace conclave
