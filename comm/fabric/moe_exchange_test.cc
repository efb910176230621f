// MoeExchange over local fabrics against a direct computation, for every grid and both schedules;
// and its counts against CountExchange.
#include "comm/fabric/moe_exchange.h"

#include <cstring>
#include <numeric>
#include <string>
#include <tuple>
#include <vector>

#include "comm/base/rng.h"
#include "comm/exchange/exchange_test_maps.h"
#include "comm/exchange/exchange_volume.h"
#include "comm/fabric/fabric_test_kit.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

constexpr int kHidden = 12;
constexpr int kTopK = 3;

// Stands for an expert: a function of the unit and the row.
float Expert(int expert, int slice, float x) {
  return static_cast<float>(expert + 1) * x + static_cast<float>(slice) * 0.5f;
}

struct Step {
  std::vector<std::vector<float>> rows_by_dp;  // [dp][tokens * stride]
  ExchangeRouting routing;
  std::vector<int32_t> tokens_by_dp;
};

constexpr int kStride = kHidden + 3;

Step MakeStep(int dp, int experts, uint64_t seed) {
  Rng rng(seed);
  Step step;
  step.routing.top_k = kTopK;
  for (int d = 0; d < dp; ++d) {
    // Every third group has no tokens.
    const int tokens = (seed + d) % 3 == 2 ? 0 : 1 + static_cast<int>(rng.Below(40));
    std::vector<float> rows(tokens * kStride);
    for (float& v : rows) v = static_cast<float>(rng.Uniform());
    step.rows_by_dp.push_back(std::move(rows));
    step.routing.experts_by_dp.push_back(RandomRouting(tokens, kTopK, experts, rng));
    step.tokens_by_dp.push_back(tokens);
  }
  return step;
}

DispatchInput InputOf(const Step& step, int layer, int dp) {
  return {layer,
          {step.rows_by_dp[dp].data(), step.tokens_by_dp[dp], kStride},
          step.routing.experts_by_dp[dp],
          step.tokens_by_dp};
}

// Applies the rank's experts to what was dispatched, with rows of `stride`.
std::vector<float> Compute(const DispatchedEntries& entries, const std::vector<ExpertUnit>& units,
                           int stride) {
  std::vector<float> out(entries.slot_of_entry.size() * stride);
  for (size_t e = 0; e < entries.slot_of_entry.size(); ++e) {
    const ExpertUnit unit = units[entries.slot_of_entry[e]];
    const float* x = entries.rows.row(entries.row_of_entry[e]);
    for (int i = 0; i < kHidden; ++i) {
      out[e * stride + i] = Expert(unit.expert, unit.slice, x[i]);
    }
  }
  return out;
}

void ExpectAllParts(const CombinedParts& combined, const Step& step, int dp, int slices) {
  const int64_t tokens = step.tokens_by_dp[dp];
  ASSERT_EQ(static_cast<int64_t>(combined.part_row.size()), tokens * kTopK * slices);
  for (int64_t i = 0; i < tokens * kTopK * slices; ++i) {
    const int64_t choice = i / slices;
    const float* x = step.rows_by_dp[dp].data() + choice / kTopK * kStride;
    const int expert = step.routing.experts_by_dp[dp][choice];
    ASSERT_LT(combined.part_row[i], combined.parts.rows);
    const float* part = combined.parts.row(combined.part_row[i]);
    for (int k = 0; k < kHidden; ++k) {
      ASSERT_EQ(part[k], Expert(expert, static_cast<int>(i % slices), x[k]));
    }
  }
}

// One dispatch and combine of layer 1 on a rank.
void RunLayer(MoeExchange& exchange, const ParallelSpec& spec, const LayerExperts& layer,
              const Step& step, int rank) {
  const GridPosition position = spec.PositionOf(rank);
  const auto entries = exchange.Dispatch(InputOf(step, 1, position.dp));
  ASSERT_TRUE(entries.ok()) << entries.status();
  const int stride = rank % 2 == 0 ? kHidden : kHidden + 5;  // contiguous or not
  const auto computed = Compute(*entries, layer.UnitsOf(spec.StageRankOf(position)), stride);
  const auto combined = exchange.Combine(
      {computed.data(), static_cast<int64_t>(entries->slot_of_entry.size()), stride});
  ASSERT_TRUE(combined.ok()) << combined.status();
  ExpectAllParts(*combined, step, position.dp, spec.slices);
}

using Case = std::tuple<FabricKind, ExchangeKind, int, int, int>;  // .., tp, dp, slices

class MoeExchangeTest : public testing::TestWithParam<Case> {
 protected:
  MoeExchangeTest() {
    spec_.tp = std::get<2>(GetParam());
    spec_.dp = std::get<3>(GetParam());
    spec_.pp = 2;
    spec_.slices = std::get<4>(GetParam());
  }
  ExchangeKind kind() const { return std::get<1>(GetParam()); }
  MoeExchangeOptions OptionsOf(int rank) const {
    return {kind(), spec_, spec_.PositionOf(rank), kHidden, kTopK, absl::Seconds(20)};
  }
  ParallelSpec spec_;
};

TEST_P(MoeExchangeTest, ResultsAreThoseOfADirectComputation) {
  constexpr int kExperts = 7;
  Rng rng(11);
  for (int map = 0; map < 3; ++map) {
    const LayerExperts layer = map == 0
                                   ? EvenMap(kExperts, spec_.slices, spec_.StageSize())
                                   : RandomMap(kExperts, spec_.slices, spec_.StageSize(), map, rng);
    const ExpertMap experts = {{LayerExperts(), layer}};
    std::vector<Step> steps;
    for (uint64_t seed = 0; seed < 4; ++seed) steps.push_back(MakeStep(spec_.dp, kExperts, seed));
    auto fabrics = MakeFabrics(std::get<0>(GetParam()), spec_.WorkerCount());
    RunRanks(fabrics, [&](int rank, Fabric& fabric) {
      MoeExchange exchange(fabric, experts, OptionsOf(rank));
      size_t warm_bytes = 0;
      for (int repeat = 0; repeat < 3; ++repeat) {
        for (const Step& step : steps) RunLayer(exchange, spec_, layer, step, rank);
        if (repeat == 0) warm_bytes = exchange.BufferBytes();
      }
      EXPECT_EQ(exchange.BufferBytes(), warm_bytes);
    });
  }
}

TEST_P(MoeExchangeTest, CountsAreThoseOfTheSchedule) {
  constexpr int kExperts = 9;
  Rng rng(13);
  const LayerExperts layer = RandomMap(kExperts, spec_.slices, spec_.StageSize(), 2, rng);
  const ExpertMap experts = {{LayerExperts(), layer}};
  const Step step = MakeStep(spec_.dp, kExperts, 3);
  const auto volume = CountExchange(kind(), spec_, layer, kHidden, step.routing);
  const auto naive = CountExchange(ExchangeKind::kNaive, spec_, layer, kHidden, step.routing);
  auto fabrics = MakeFabrics(std::get<0>(GetParam()), spec_.WorkerCount());
  RunRanks(fabrics, [&](int rank, Fabric& fabric) {
    MoeExchange exchange(fabric, experts, OptionsOf(rank));
    RunLayer(exchange, spec_, layer, step, rank);
    const ExchangeStats stats = exchange.TakeStats();
    const int stage_rank = spec_.StageRankOf(spec_.PositionOf(rank));
    EXPECT_EQ(stats.exchanges, 2);
    EXPECT_EQ(stats.peers_max, volume.ranks[stage_rank].peers);
    EXPECT_EQ(stats.messages, volume.ranks[stage_rank].messages);
    EXPECT_EQ(stats.bytes, volume.ranks[stage_rank].bytes);
    EXPECT_EQ(stats.gather_bytes, volume.ranks[stage_rank].gather_bytes);
    EXPECT_EQ(stats.naive_peers_max, naive.ranks[stage_rank].peers);
    EXPECT_EQ(stats.naive_messages, naive.ranks[stage_rank].messages);
    EXPECT_EQ(stats.naive_bytes, naive.ranks[stage_rank].bytes);
    EXPECT_EQ(fabric.counters().bytes_sent, stats.bytes + stats.gather_bytes);
    EXPECT_EQ(exchange.TakeStats(), ExchangeStats());
  });
}

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  const auto [fabric, kind, tp, dp, slices] = info.param;
  return std::string(FabricKindName(fabric)) + (kind == ExchangeKind::kPcc ? "Pcc" : "Naive") +
         "Tp" + std::to_string(tp) + "Dp" + std::to_string(dp) + "Slices" + std::to_string(slices);
}

INSTANTIATE_TEST_SUITE_P(Grids, MoeExchangeTest,
                         testing::Combine(testing::Values(FabricKind::kLocal),
                                          testing::Values(ExchangeKind::kNaive, ExchangeKind::kPcc),
                                          testing::Values(1, 2, 4), testing::Values(1, 2, 4),
                                          testing::Values(1, 2)),
                         CaseName);
INSTANTIATE_TEST_SUITE_P(Ucx, MoeExchangeTest,
                         testing::Combine(testing::Values(FabricKind::kUcxShared),
                                          testing::Values(ExchangeKind::kPcc), testing::Values(2),
                                          testing::Values(2), testing::Values(2)),
                         CaseName);

TEST(MoeExchangeInputTest, WhatDoesNotFitIsRefused) {
  const ExpertMap experts = {{LayerExperts(), EvenMap(4, 1, 1)}};
  auto fabrics = MakeFabrics(FabricKind::kLocal, 1);
  MoeExchangeOptions options;
  options.hidden = kHidden;
  options.top_k = kTopK;
  MoeExchange exchange(*fabrics[0], experts, options);
  Step step = MakeStep(1, 4, 0);
  const auto error = [&] {
    return std::string(exchange.Dispatch(InputOf(step, 1, 0)).status().message());
  };
  EXPECT_EQ(error(), "");
  step.routing.experts_by_dp[0][2] = 4;
  EXPECT_THAT(error(), HasSubstr("expert 4 chosen of 4 in layer 1"));
  step.tokens_by_dp[0] += 1;
  EXPECT_THAT(error(), HasSubstr("tokens planned for dp group 0"));
  step.tokens_by_dp.push_back(0);
  EXPECT_THAT(error(), HasSubstr("tokens_by_dp has 2 entries for dp=1"));
}

TEST(MoeExchangeInputTest, GarbageFromAPeerNamesIt) {
  const ExpertMap experts = {{EvenMap(4, 1, 2)}};
  auto fabrics = MakeFabrics(FabricKind::kLocal, 2);
  RunRanks(fabrics, [&](int rank, Fabric& fabric) {
    ParallelSpec spec;
    spec.dp = 2;
    if (rank == 1) {
      const std::vector<uint8_t> garbage(24, 7);
      std::vector<uint8_t> in(10000);
      const std::vector<SendBuffer> sends = {{0, garbage}};
      std::vector<RecvBuffer> recvs = {{0, absl::MakeSpan(in)}};
      EXPECT_TRUE(fabric.Exchange(sends, absl::MakeSpan(recvs), {"garbage"}).ok());
      return;
    }
    MoeExchangeOptions options = {ExchangeKind::kPcc, spec, {}, kHidden, kTopK};
    MoeExchange exchange(fabric, experts, options);
    const Step step = MakeStep(2, 4, 0);
    const auto entries = exchange.Dispatch(InputOf(step, 0, 0));
    EXPECT_EQ(entries.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(entries.status().message()),
                HasSubstr("layer 0, from rank 1: MoE dispatch message: magic"));
  });
}

}  // namespace
}  // namespace conclave
