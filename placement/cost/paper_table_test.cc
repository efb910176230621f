// The cost model against the paper's own hardware: table II and figure 7 of arXiv 2207.00032. Two
// constants, the launch and tail of a kernel and the work for each peer, are fitted on two rows;
// the other rows are predictions. Milliseconds are read off figure 7.

#include <iostream>
#include <numeric>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "placement/cost/cost_model.h"

namespace conclave {
namespace {

struct PaperRow {
  const char* model;
  int tp;
  int slices;
  int devices;
  double seconds;
  double bandwidth_share;
};

constexpr double kBatchOfReplica = 8;
constexpr double kPromptTokens = 128;
constexpr double kOutputTokens = 100;
const PaperRow k107B = {"paper-107b", 1, 1, 128, 10.3e-3, 0.31};
const PaperRow k349B = {"paper-349b", 4, 1, 128, 23.1e-3, 0.22};
const PaperRow k1T = {"paper-1t", 8, 2, 256, 24e-3, 0.32};
const PaperRow k2T = {"paper-2t", 8, 2, 256, 45e-3, 0.33};

// The two constants that are fitted.
struct Overheads {
  double kernel_seconds = 0;
  double peer_seconds = 0;
};

ClusterTopology Dgx(int devices, const Overheads& overheads) {
  absl::StatusOr<ClusterTopology> cluster =
      BuiltinCluster("a100-40g-dgx:" + std::to_string(devices));
  EXPECT_TRUE(cluster.ok()) << cluster.status().message();
  cluster->profiles[0].kernel_seconds = overheads.kernel_seconds;
  cluster->profiles[0].peer_seconds = overheads.peer_seconds;
  return *std::move(cluster);
}

Candidate GridOf(const PaperRow& row, int layers, ScheduleKind schedule) {
  ParallelSpec spec;
  spec.tp = row.tp;
  spec.dp = row.devices / row.tp;
  spec.slices = row.slices;
  spec.ep = row.devices / row.slices;
  std::vector<int> devices(row.devices);
  std::iota(devices.begin(), devices.end(), 0);
  return EvenCandidate(spec, schedule, layers, devices);
}

StepCost Predict(const PaperRow& row, const Overheads& overheads,
                 ScheduleKind schedule = ScheduleKind::kPcc) {
  const ModelDims model = *PresetDims(row.model);
  const Candidate candidate = GridOf(row, model.layers, schedule);
  const StepLoad load =
      DecodeLoad(kBatchOfReplica * candidate.spec.dp, kPromptTokens + kOutputTokens / 2);
  return CostOfStep(model, Dgx(row.devices, overheads), candidate, load);
}

// The step is linear in both constants: two rows give them.
Overheads Fit(const PaperRow& a, const PaperRow& b) {
  constexpr double kUnit = 1e-6;
  double matrix[2][3];
  const PaperRow* rows[2] = {&a, &b};
  for (int i = 0; i < 2; ++i) {
    const double none = Predict(*rows[i], {}).seconds;
    matrix[i][0] = (Predict(*rows[i], {kUnit, 0}).seconds - none) / kUnit;
    matrix[i][1] = (Predict(*rows[i], {0, kUnit}).seconds - none) / kUnit;
    matrix[i][2] = rows[i]->seconds - none;
  }
  const double determinant = matrix[0][0] * matrix[1][1] - matrix[0][1] * matrix[1][0];
  return {(matrix[0][2] * matrix[1][1] - matrix[0][1] * matrix[1][2]) / determinant,
          (matrix[0][0] * matrix[1][2] - matrix[0][2] * matrix[1][0]) / determinant};
}

TEST(PaperTableTest, TheProfileHoldsTheFittedConstants) {
  const Overheads fitted = Fit(k107B, k2T);
  const HardwareProfile profile = *BuiltinProfile("a100-40g-dgx");
  std::cout << "fitted: kernel " << fitted.kernel_seconds * 1e6 << " us, peer "
            << fitted.peer_seconds * 1e6 << " us\n";
  EXPECT_GT(fitted.peer_seconds, 0);
  EXPECT_NEAR(profile.kernel_seconds, fitted.kernel_seconds, 0.03 * fitted.kernel_seconds);
  EXPECT_NEAR(profile.peer_seconds, fitted.peer_seconds, 0.03 * fitted.peer_seconds);
}

TEST(PaperTableTest, TheOtherRowsArePredictedWithinTwentyPercent) {
  const Overheads fitted = Fit(k107B, k2T);
  for (const PaperRow& row : {k107B, k2T, k349B, k1T}) {
    const StepCost step = Predict(row, fitted);
    std::cout << row.model << ": " << step.seconds * 1e3 << " ms (" << row.seconds * 1e3
              << "), share of bandwidth " << 100 * step.bandwidth_share << " % ("
              << 100 * row.bandwidth_share << ")\n";
    EXPECT_NEAR(step.seconds, row.seconds, 0.2 * row.seconds) << row.model;
    EXPECT_NEAR(step.bandwidth_share, row.bandwidth_share, 0.05) << row.model;
  }
}

// On half the devices, where each holds whole experts, the two trillion model does not fit.
TEST(PaperTableTest, MemoryFitsWhereThePaperRanAndNotBelow) {
  for (const PaperRow& row : {k107B, k349B, k1T, k2T}) {
    const ModelDims model = *PresetDims(row.model);
    const Candidate candidate = GridOf(row, model.layers, ScheduleKind::kPcc);
    const double sequences = kBatchOfReplica * candidate.spec.dp;
    EXPECT_TRUE(CheckFits(model, Dgx(row.devices, {}), candidate,
                          sequences * (kPromptTokens + kOutputTokens), sequences)
                    .ok())
        << row.model;
  }
  PaperRow half = k2T;
  half.devices = 128;
  half.slices = 1;
  const ModelDims model = *PresetDims(half.model);
  const Candidate grid = GridOf(half, model.layers, ScheduleKind::kPcc);
  const absl::Status fits = CheckFits(model, Dgx(half.devices, {}), grid, 128 * 228, 128);
  EXPECT_EQ(fits.code(), absl::StatusCode::kResourceExhausted) << fits.message();
}

TEST(PaperTableTest, NaiveExchangeShowsWherePccGains) {
  const Overheads fitted = Fit(k107B, k2T);
  for (const PaperRow& row : {k349B, k1T, k2T}) {
    const int exchange = static_cast<int>(CostKind::kExchange);
    const StepCost pcc = Predict(row, fitted);
    const StepCost naive = Predict(row, fitted, ScheduleKind::kNaive);
    std::cout << row.model << ": exchange " << naive.seconds_by_kind[exchange] * 1e3
              << " ms naive, " << pcc.seconds_by_kind[exchange] * 1e3 << " ms PCC; step "
              << naive.seconds * 1e3 << " and " << pcc.seconds * 1e3 << " ms\n";
    EXPECT_GT(naive.seconds_by_kind[exchange], 2 * pcc.seconds_by_kind[exchange]);
  }
}

}  // namespace
}  // namespace conclave
