#include "placement/cost/cost_model.h"

#include <cmath>
#include <numeric>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "placement/cost/expected.h"
#include "placement/cost/link_costs.h"

namespace conclave {
namespace {

Candidate Grid(const ModelDims& model, const ParallelSpec& wanted,
               ScheduleKind schedule = ScheduleKind::kPcc) {
  ParallelSpec spec = wanted;
  spec.ep = model.IsMoe() ? spec.StageSize() / spec.slices : 0;
  std::vector<int> devices(spec.WorkerCount());
  std::iota(devices.begin(), devices.end(), 0);
  return EvenCandidate(spec, schedule, model.layers, devices);
}

double Kind(const StepCost& step, CostKind kind) {
  return step.seconds_by_kind[static_cast<int>(kind)];
}

TEST(CostModelTest, PartsSumToTheStep) {
  const ClusterTopology cluster = *BuiltinCluster("h200:16");
  for (const char* name : {"kimi-k2", "qwen3-30b-a3b", "llama-3.1-70b", "mixtral-8x7b"}) {
    const ModelDims model = *PresetDims(name);
    for (const ParallelSpec& spec : {ParallelSpec{.tp = 8, .dp = 2}, ParallelSpec{.tp = 4, .pp = 4},
                                     ParallelSpec{.tp = 8, .pp = 2}}) {
      if (!CheckGrid(model, spec).ok()) continue;
      const StepCost step = CostOfStep(model, cluster, Grid(model, spec), DecodeLoad(16, 1024));
      double sum = 0;
      for (const double part : step.seconds_by_kind) sum += part;
      EXPECT_NEAR(sum, step.seconds, 1e-12);
      EXPECT_LE(step.interval_seconds, step.seconds + 1e-12);
      EXPECT_EQ(step.ranks.size(), 16u);
    }
  }
}

// One device reads its weights once: bytes are those that the roofline counts by hand.
TEST(CostModelTest, OneDeviceReadsWhatItTouches) {
  const ModelDims model = *PresetDims("qwen3-30b-a3b");
  const ClusterTopology cluster = *BuiltinCluster("h200:1");
  const StepCost step = CostOfStep(model, cluster, Grid(model, {}), DecodeLoad(1, 512));
  const double layer =
      2.0 * (2048.0 * (2 * 32 * 128 + 2 * 4 * 128) + 2048.0 * 128 + 8 * 3.0 * 2048 * 768);
  const double kv = 512.0 * 2 * 4 * 128 * 2;
  EXPECT_NEAR(step.ranks[0].bytes, 48 * (layer + kv) + 2.0 * 151936 * 2048, 1e6);
  EXPECT_EQ(Kind(step, CostKind::kExchange), 0);
  EXPECT_EQ(Kind(step, CostKind::kTensorParallel), 0);
}

// Measured by `conclave bench latency` on one H200, bf16, context 512 (see kernels/README.md).
TEST(CostModelTest, OneH200IsPredictedWithinFifteenPercent) {
  struct Point {
    const char* model;
    int batch;
    double seconds;
  };
  const ClusterTopology cluster = *BuiltinCluster("h200:1");
  for (const Point& point :
       {Point{"qwen3-30b-a3b", 1, 2.91e-3}, Point{"qwen3-30b-a3b", 8, 9.4e-3},
        Point{"qwen3-30b-a3b", 32, 16.2e-3}, Point{"qwen3-30b-a3b", 128, 20.7e-3},
        Point{"olmoe-1b-7b", 1, 1.06e-3}, Point{"olmoe-1b-7b", 8, 3.26e-3}}) {
    const ModelDims model = *PresetDims(point.model);
    const StepCost step = CostOfStep(model, cluster, Grid(model, {}), DecodeLoad(point.batch, 512));
    EXPECT_NEAR(step.seconds, point.seconds, 0.15 * point.seconds)
        << point.model << " at " << point.batch;
  }
}

TEST(CostModelTest, ExpectedExpertsHitIsWhatDrawsGive) {
  Rng rng(7);
  constexpr int kExperts = 32, kTopK = 4, kTokens = 6, kDraws = 4000;
  double hit = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    std::vector<bool> touched(kExperts, false);
    for (int token = 0; token < kTokens; ++token) {
      std::vector<bool> chosen(kExperts, false);
      for (int left = kTopK; left > 0;) {
        const int expert = static_cast<int>(rng.Below(kExperts));
        if (chosen[expert]) continue;
        chosen[expert] = touched[expert] = true;
        --left;
      }
    }
    for (const bool one : touched) hit += one;
  }
  EXPECT_NEAR(ExpectedExpertsHit(kExperts, kTopK, kTokens), hit / kDraws, 0.15);
  EXPECT_EQ(ExpectedExpertsHit(0, 0, 8), 0);
  EXPECT_NEAR(ExpectedExpertsHit(8, 8, 1), 8, 1e-9);
}

TEST(CostModelTest, TheBusiestRankIsWhatDrawsGive) {
  Rng rng(8);
  constexpr int kUnits = 6, kRanks = 16, kDraws = 20000;
  constexpr double kHit = 0.3;
  double most = 0;
  for (int draw = 0; draw < kDraws; ++draw) {
    int largest = 0;
    for (int rank = 0; rank < kRanks; ++rank) {
      int count = 0;
      for (int unit = 0; unit < kUnits; ++unit) count += rng.Below(1000) < 1000 * kHit;
      largest = std::max(largest, count);
    }
    most += largest;
  }
  EXPECT_NEAR(ExpectedMostHit(kUnits, kHit, kRanks), most / kDraws, 0.05);
  EXPECT_NEAR(ExpectedMostHit(kUnits, kHit, 1), kUnits * kHit, 1e-9);
  EXPECT_NEAR(ExpectedMostHit(kUnits, 1.0, 5), kUnits, 1e-9);
}

TEST(CostModelTest, MoreTokensOrContextNeverCostLess) {
  const ModelDims model = *PresetDims("kimi-k2");
  const ClusterTopology cluster = *BuiltinCluster("h200:32");
  const Candidate grid = Grid(model, {.tp = 8, .dp = 4});
  double last = 0;
  for (double batch = 4; batch <= 4096; batch *= 2) {
    const double seconds = CostOfStep(model, cluster, grid, DecodeLoad(batch, 2048)).seconds;
    EXPECT_GE(seconds, last);
    last = seconds;
    EXPECT_GT(CostOfStep(model, cluster, grid, DecodeLoad(batch, 8192)).seconds, seconds);
  }
}

TEST(CostModelTest, PccTalksToThePeersOfOneTpIndex) {
  const ModelDims model = *PresetDims("qwen3-235b-a22b");
  const ClusterTopology cluster = *BuiltinCluster("h200:32");
  for (const int tp : {1, 2, 4, 8}) {
    const Candidate pcc = Grid(model, {.tp = tp, .dp = 32 / tp});
    const Candidate naive = Grid(model, {.tp = tp, .dp = 32 / tp}, ScheduleKind::kNaive);
    EXPECT_EQ(CountPeers(cluster, pcc, 0)[5].Total(), 32 / tp - 1);
    EXPECT_EQ(CountPeers(cluster, naive, 0)[5].Total(), 31);
    const StepLoad load = PrefillLoad(32, 1024);
    const StepCost a = CostOfStep(model, cluster, pcc, load);
    const StepCost b = CostOfStep(model, cluster, naive, load);
    if (tp == 1) {
      EXPECT_NEAR(a.ranks[0].link_bytes[2], b.ranks[0].link_bytes[2], 1);
    } else {
      EXPECT_LT(a.ranks[0].link_bytes[2], 1.2 * b.ranks[0].link_bytes[2] / tp);
    }
  }
}

TEST(CostModelTest, TwoLevelSendsFewerBytesAcrossNodes) {
  const ModelDims model = *PresetDims("kimi-k2");
  const ClusterTopology cluster = *BuiltinCluster("h200:64");
  const ParallelSpec spec{.tp = 1, .dp = 64};
  const StepLoad load = PrefillLoad(64, 1024);
  const StepCost flat = CostOfStep(model, cluster, Grid(model, spec), load);
  const StepCost two = CostOfStep(model, cluster, Grid(model, spec, ScheduleKind::kTwoLevel), load);
  EXPECT_LT(two.ranks[0].link_bytes[2], flat.ranks[0].link_bytes[2]);
  EXPECT_LT(two.ranks[0].link_messages[2], flat.ranks[0].link_messages[2]);
}

TEST(CostModelTest, ASlowDeviceIsTheSlowestRank) {
  const ModelDims model = *PresetDims("qwen3-235b-a22b");
  const ClusterTopology cluster = *BuiltinCluster("h200:8,a100-80g:8");
  const StepCost step =
      CostOfStep(model, cluster, Grid(model, {.tp = 8, .dp = 2}), DecodeLoad(16, 1024));
  EXPECT_GE(step.slowest_rank, 8);
}

TEST(CostModelTest, EqualInputsGiveEqualBits) {
  const ModelDims model = *PresetDims("deepseek-v3");
  const ClusterTopology cluster = *BuiltinCluster("h200:32");
  const Candidate grid = Grid(model, {.tp = 8, .dp = 2, .pp = 2});
  const StepCost a = CostOfStep(model, cluster, grid, DecodeLoad(64, 4096));
  const StepCost b = CostOfStep(model, cluster, grid, DecodeLoad(64, 4096));
  EXPECT_EQ(a.seconds, b.seconds);
  EXPECT_EQ(a.ranks, b.ranks);
}

TEST(CostModelTest, GridsThatCannotCutTheModelAreRefusedByName) {
  const ModelDims dense = *PresetDims("llama-3.1-8b");
  const ModelDims moe = *PresetDims("mixtral-8x7b");
  EXPECT_TRUE(CheckGrid(moe, {.tp = 8, .dp = 2, .slices = 2}).ok());
  const auto message = [](const ModelDims& model, const ParallelSpec& spec) {
    return std::string(CheckGrid(model, spec).message());
  };
  EXPECT_NE(message(dense, {.tp = 3}).find("tp must divide the 32 heads"), std::string::npos);
  EXPECT_NE(message(dense, {.pp = 33}).find("pp is more than the 32 layers"), std::string::npos);
  EXPECT_NE(message(dense, {.slices = 2}).find("no expert slices"), std::string::npos);
  EXPECT_NE(message(moe, {.tp = 8, .dp = 2}).find("16 groups for 8 experts"), std::string::npos);
  EXPECT_NE(message(moe, {.tp = 0}).find("at least 1"), std::string::npos);
}

TEST(CostModelTest, MemoryNamesTheRankAndTheRemedy) {
  const ModelDims model = *PresetDims("kimi-k2");
  const absl::Status fits =
      CheckFits(model, *BuiltinCluster("h100:8"), Grid(model, {.tp = 8, .dp = 1}), 1024, 64);
  ASSERT_EQ(fits.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(fits.message().find("rank 0 needs"), absl::string_view::npos) << fits.message();
  const Candidate wide = Grid(model, {.tp = 8, .dp = 2});
  EXPECT_TRUE(CheckFits(model, *BuiltinCluster("h200:16"), wide, 1024, 64).ok());
}

}  // namespace
}  // namespace conclave
