#include "placement/forecast/forecast.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "comm/exchange/exchange_volume.h"
#include "gtest/gtest.h"
#include "placement/forecast/forecast_test_inputs.h"
#include "placement/forecast/spread_map.h"

namespace conclave {
namespace {

SimulateResult Forecast(const SimulateInput& input) {
  const auto result = Simulate(input);
  EXPECT_TRUE(result.ok()) << result.status();
  return result.ok() ? *result : SimulateResult();
}

double LinkBytes(const SimulateResult& result, LinkClass link) {
  double bytes = 0;
  for (const LinkUse& use : result.links) bytes += use.link == link ? use.bytes_per_step : 0;
  return bytes;
}

TEST(ForecastTest, UniformRoutingComesCloseToTheCostModel) {
  for (const ScheduleKind schedule :
       {ScheduleKind::kNaive, ScheduleKind::kPcc, ScheduleKind::kTwoLevel}) {
    for (const ParallelSpec& spec :
         {Grid(1, 4), Grid(1, 8), Grid(1, 16), Grid(2, 8), Grid(1, 8, 2), Grid(1, 8, 1, 2)}) {
      for (const double sequences : {16.0, 128.0, 1024.0}) {
        const SimulateInput input = SmallInput(spec, schedule, sequences);
        const StepCost cost = CostOfStep(input.model, input.cluster, input.candidate, input.load);
        const double ratio = Forecast(input).mean_seconds / cost.seconds;
        EXPECT_NEAR(ratio, 1, 0.15)
            << ScheduleName(schedule) << " " << spec.ToString() << " " << sequences;
      }
    }
  }
}

TEST(ForecastTest, PresetsOnShippedProfilesComeCloseToTheCostModel) {
  for (const char* name : {"qwen3-30b-a3b", "deepseek-v3"}) {
    for (const double sequences : {64.0, 512.0}) {
      SimulateInput input;
      input.model = *PresetDims(name);
      input.cluster = *BuiltinCluster("h200:16");
      std::vector<int> devices;
      for (int d = 0; d < 16; ++d) devices.push_back(d);
      input.candidate = EvenCandidate(Grid(1, 16), ScheduleKind::kPcc, input.model.layers, devices);
      input.load = DecodeLoad(sequences, 2048);
      input.load.imbalance = ExpectedImbalance(16, sequences * input.model.top_k);
      input.steps = 4;
      const StepCost cost = CostOfStep(input.model, input.cluster, input.candidate, input.load);
      EXPECT_NEAR(Forecast(input).mean_seconds / cost.seconds, 1, 0.15) << name << " " << sequences;
    }
  }
}

TEST(ForecastTest, OneSeedOneResult) {
  SimulateInput input = SmallInput(Grid(2, 4), ScheduleKind::kTwoLevel, 64);
  input.experts = SyntheticLoad(5, 32, 1.0, 9);
  const SimulateResult first = Forecast(input);
  EXPECT_EQ(first.step_seconds, Forecast(input).step_seconds);
  input.seed = 2;
  EXPECT_NE(first.step_seconds, Forecast(input).step_seconds);
  // More steps: the first ones stay.
  input.seed = 1;
  input.steps = 30;
  const SimulateResult longer = Forecast(input);
  EXPECT_TRUE(std::equal(first.step_seconds.begin(), first.step_seconds.end(),
                         longer.step_seconds.begin()));
}

TEST(ForecastTest, FiguresAreConsistent) {
  SimulateInput input = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 64);
  input.steps = 50;
  const SimulateResult result = Forecast(input);
  ASSERT_EQ(result.step_seconds.size(), 50u);
  std::vector<double> sorted = result.step_seconds;
  std::sort(sorted.begin(), sorted.end());
  EXPECT_EQ(result.p50_seconds, sorted[24]);
  EXPECT_EQ(result.p95_seconds, sorted[47]);
  EXPECT_EQ(result.p99_seconds, sorted[49]);
  EXPECT_EQ(result.max_seconds, sorted[49]);
  EXPECT_GT(result.mean_seconds, sorted[0]);
  EXPECT_LT(result.mean_seconds, sorted[49]);
  EXPECT_NEAR(result.tokens_per_second, 64 / result.mean_seconds, 1e-6 / result.mean_seconds);
  EXPECT_GE(result.imbalance_max, result.imbalance_mean);
  EXPECT_GT(result.imbalance_mean, 1);
  for (size_t i = 0; i < result.links.size(); ++i) {
    EXPECT_GT(result.links[i].busy_share, 0);
    EXPECT_LE(result.links[i].busy_share, 1);
    if (i == 0) continue;
    EXPECT_LE(result.links[i].busy_share, result.links[i - 1].busy_share);
  }
}

TEST(ForecastTest, SkewRaisesLatencyAndImbalance) {
  for (const ScheduleKind schedule : {ScheduleKind::kPcc, ScheduleKind::kTwoLevel}) {
    double seconds = 0;
    double imbalance = 0;
    for (const double skew : {0.0, 0.8, 1.6}) {
      SimulateInput input = SmallInput(Grid(1, 8), schedule, 512);
      input.experts = SyntheticLoad(5, 32, skew, 4);
      const SimulateResult result = Forecast(input);
      EXPECT_GT(result.imbalance_mean, imbalance);
      // Fewer experts are hit, too; so many rows make up for it.
      EXPECT_GT(result.mean_seconds, seconds);
      seconds = result.mean_seconds;
      imbalance = result.imbalance_mean;
    }
  }
}

TEST(ForecastTest, EvenCountsAreUniform) {
  SimulateInput input = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 64);
  const std::vector<double> uniform = Forecast(input).step_seconds;
  input.experts = SyntheticLoad(5, 32, 0, 7);
  EXPECT_EQ(Forecast(input).step_seconds, uniform);
}

TEST(ForecastTest, ExtraCopiesOfAHotExpertHelp) {
  SimulateInput input = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 512);
  input.experts = LoadProfile(5, 32);
  for (int layer = 0; layer < 5; ++layer) {
    for (int expert = 0; expert < 32; ++expert) input.experts.Add(layer, expert, 1);
    input.experts.Add(layer, 5, 60);  // in most tokens' choice
  }
  const SimulateResult alone = Forecast(input);
  std::vector<std::vector<int>> groups;
  for (int expert = 0; expert < 32; ++expert) groups.push_back({expert / 4});
  groups[5] = {0, 1, 2, 3, 4, 5, 6, 7};
  input.maps.assign(5, MapOfGroups(groups, 1));
  const SimulateResult copied = Forecast(input);
  EXPECT_LT(copied.imbalance_mean, 0.7 * alone.imbalance_mean);
  EXPECT_LT(copied.mean_seconds, alone.mean_seconds);
}

TEST(ForecastTest, NaiveSendsMoreThanPccAndTwoLevelCrossesLess) {
  const auto bytes = [](ScheduleKind schedule) {
    SimulateInput input = SmallInput(Grid(4, 2), schedule, 64);
    return LinkBytes(Forecast(input), LinkClass::kNetwork);
  };
  const double naive = bytes(ScheduleKind::kNaive);
  EXPECT_NEAR(bytes(ScheduleKind::kPcc) / naive, 0.25, 0.01);
  EXPECT_LT(bytes(ScheduleKind::kTwoLevel), bytes(ScheduleKind::kPcc));
}

TEST(ForecastTest, LinkBytesAreThoseOfTheRuntimesSchedule) {
  // One token a rank and top-k of all experts: nothing is left to chance.
  SimulateInput input = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 8);
  input.model.top_k = 32;
  input.model.activation = NumberFormat::kF32;
  input.cluster.profiles[0].flops[NumberFormat::kF32] = 50e12;
  ExchangeRouting routing;
  routing.top_k = 32;
  for (int d = 0; d < 8; ++d) {
    routing.experts_by_dp.emplace_back();
    for (int expert = 0; expert < 32; ++expert) routing.experts_by_dp.back().push_back(expert);
  }
  const RankVolume runtime =
      CountExchange(ExchangeKind::kPcc, input.candidate.spec, SpreadMap(input.candidate, 32),
                    input.model.hidden, routing)
          .Total();
  // 4 devices a node: 24 pairs of devices, and the network both ways.
  const SimulateResult result = Forecast(input);
  ASSERT_EQ(result.links.size(), 26u);
  EXPECT_EQ(result.links[0].from.find("node-"), 0u);
  EXPECT_NE(result.links[0].from.find(" network"), std::string::npos);
  EXPECT_NE(result.links[5].from.find("/gpu-"), std::string::npos);
  const double all = LinkBytes(result, LinkClass::kNetwork) + LinkBytes(result, LinkClass::kFast);
  EXPECT_DOUBLE_EQ(all, 5.0 * static_cast<double>(runtime.bytes));
}

TEST(ForecastTest, ASlowerNodeIsTheBottleneck) {
  const SimulateInput even = SmallInput(Grid(1, 8), ScheduleKind::kPcc, 128);
  SimulateInput slow = even;
  slow.cluster.profiles.push_back(slow.cluster.profiles[0]);
  slow.cluster.profiles[1].memory_bandwidth /= 4;
  slow.cluster.nodes[1].profile = 1;
  SimulateInput all_slow = slow;
  all_slow.cluster.nodes[0].profile = 1;
  const double seconds = Forecast(slow).mean_seconds;
  EXPECT_GT(seconds, 1.5 * Forecast(even).mean_seconds);
  EXPECT_NEAR(seconds / Forecast(all_slow).mean_seconds, 1, 0.03);
  // Its experts elsewhere, and half of its tokens: faster again.
  SimulateInput moved = slow;
  for (int r = 0; r < 8; ++r) {
    moved.candidate.expert_shares[r] = r < 4 ? 0.2 : 0.05;
    moved.candidate.token_shares[r] = r < 4 ? 0.1875 : 0.0625;
  }
  EXPECT_LT(Forecast(moved).mean_seconds, seconds);
}

TEST(ForecastTest, ASlowerNetworkCostsNaiveMost) {
  const auto slowdown = [](ScheduleKind schedule) {
    SimulateInput input = SmallInput(Grid(4, 2), schedule, 512);
    const double before = Forecast(input).mean_seconds;
    for (ClusterNode& node : input.cluster.nodes) node.network.bandwidth /= 10;
    return Forecast(input).mean_seconds - before;
  };
  EXPECT_GT(slowdown(ScheduleKind::kNaive), 3 * slowdown(ScheduleKind::kPcc));
  EXPECT_GT(slowdown(ScheduleKind::kPcc), slowdown(ScheduleKind::kTwoLevel));
}

TEST(ForecastTest, AFullPipelineHidesItsStages) {
  const SimulateResult one = Forecast(SmallInput(Grid(1, 4, 1), ScheduleKind::kPcc, 64));
  const SimulateResult two = Forecast(SmallInput(Grid(1, 4, 2), ScheduleKind::kPcc, 64));
  EXPECT_GT(two.mean_seconds, one.mean_seconds);  // hand-over
  EXPECT_GT(two.tokens_per_second, 1.5 * one.tokens_per_second);
  EXPECT_LE(two.tokens_per_second, 2 * one.tokens_per_second);
  EXPECT_EQ(LinkBytes(one, LinkClass::kNetwork), 0);
  EXPECT_DOUBLE_EQ(LinkBytes(two, LinkClass::kNetwork), 64 * 2048 * 2.0);
}

TEST(ForecastTest, ADenseModelNeedsNoExchange) {
  SimulateInput input = SmallInput(Grid(4, 2), ScheduleKind::kPcc, 64);
  input.model.experts = 0;
  input.model.moe_layers.clear();
  input.candidate.spec.ep = 0;
  input.candidate.expert_shares.clear();
  const SimulateResult result = Forecast(input);
  const StepCost cost = CostOfStep(input.model, input.cluster, input.candidate, input.load);
  EXPECT_NEAR(result.mean_seconds, cost.seconds, 1e-9);
  EXPECT_DOUBLE_EQ(result.mean_seconds, result.max_seconds);
  EXPECT_EQ(result.imbalance_max, 1);
  EXPECT_EQ(LinkBytes(result, LinkClass::kNetwork), 0);
  EXPECT_GT(LinkBytes(result, LinkClass::kFast), 0);  // the tp rings
}

TEST(ForecastTest, OneRankOneToken) {
  SimulateInput input = SmallInput(Grid(1, 1), ScheduleKind::kNaive, 1);
  const SimulateResult result = Forecast(input);
  EXPECT_TRUE(result.links.empty());
  EXPECT_EQ(result.imbalance_max, 1);
  EXPECT_GT(result.p50_seconds, 0);
  // Fewer tokens than groups: some ranks have none of their own.
  const SimulateResult wide = Forecast(SmallInput(Grid(1, 8), ScheduleKind::kTwoLevel, 1));
  EXPECT_GT(wide.p50_seconds, 0);
  EXPECT_GE(wide.imbalance_mean, 2);  // 4 experts on at most 4 of 8 ranks
}

TEST(ForecastTest, HugeStepsAreSampled) {
  SimulateInput input = SmallInput(Grid(1, 4), ScheduleKind::kPcc, 4);
  input.load = PrefillLoad(1000, 40'000);  // 8e8 choices a step
  input.steps = 1;
  const SimulateResult result = Forecast(input);
  const StepCost cost = CostOfStep(input.model, input.cluster, input.candidate, input.load);
  EXPECT_NEAR(result.mean_seconds / cost.seconds, 1, 0.15);
  EXPECT_NEAR(result.imbalance_mean, 1, 0.01);
}

void ExpectRefused(const SimulateInput& input, const char* word) {
  const auto result = Simulate(input);
  ASSERT_EQ(result.status().code(), absl::StatusCode::kInvalidArgument) << word;
  EXPECT_NE(result.status().message().find(word), absl::string_view::npos) << result.status();
}

TEST(ForecastTest, BadCandidatesAreRefused) {
  const SimulateInput good = SmallInput(Grid(2, 4), ScheduleKind::kPcc, 64);
  SimulateInput bad = good;
  bad.candidate.devices.pop_back();
  ExpectRefused(bad, "devices");
  bad = good;
  bad.candidate.devices[3] = 99;
  ExpectRefused(bad, "99");
  bad = good;
  bad.candidate.devices[3] = 0;
  ExpectRefused(bad, "twice");
  bad = good;
  bad.candidate.spec.tp = 0;
  ExpectRefused(bad, "candidate.spec");
  bad = good;
  bad.candidate.spec.slices = 3;
  ExpectRefused(bad, "slices");
  bad = good;
  bad.candidate.stages[0].end = 4;
  ExpectRefused(bad, "candidate.stages");
  bad = good;
  bad.candidate.token_shares[0] = std::nan("");
  ExpectRefused(bad, "candidate.token_shares");
  bad = good;
  bad.candidate.expert_shares.clear();
  ExpectRefused(bad, "candidate.expert_shares");
  bad = good;
  bad.cluster.nodes[1].fast.bandwidth = 0;
  ExpectRefused(bad, "bandwidth");
  bad = good;
  bad.cluster.profiles[0].memory_bandwidth = 0;
  ExpectRefused(bad, "memory_bandwidth");
  bad = good;
  bad.cluster.nodes[0].profile = 7;
  ExpectRefused(bad, "profile");
}

TEST(ForecastTest, BadModelsLoadsAndMapsAreRefused) {
  const SimulateInput good = SmallInput(Grid(2, 4), ScheduleKind::kPcc, 64);
  SimulateInput bad = good;
  bad.steps = 0;
  ExpectRefused(bad, "steps");
  bad = good;
  bad.model.top_k = 33;
  ExpectRefused(bad, "model.top_k");
  bad = good;
  bad.model.kv_heads = 0;
  ExpectRefused(bad, "kv_heads");
  bad = good;
  bad.load.tokens = 0;
  ExpectRefused(bad, "load.tokens");
  bad = good;
  bad.load.context_tokens = std::numeric_limits<double>::infinity();
  ExpectRefused(bad, "load");
  bad = good;
  bad.experts = LoadProfile(4, 32);
  ExpectRefused(bad, "load profile");
  bad = good;
  bad.experts = LoadProfile(5, 32);
  bad.experts.Add(2, 3, -1);
  ExpectRefused(bad, "layer 2, expert 3");
  bad = good;
  bad.maps.assign(4, SpreadMap(good.candidate, 32));
  ExpectRefused(bad, "maps");
  bad.maps.assign(5, SpreadMap(good.candidate, 31));
  ExpectRefused(bad, "maps");
  bad.maps.assign(5, SpreadMap(SmallInput(Grid(2, 8), ScheduleKind::kPcc, 1).candidate, 32));
  ExpectRefused(bad, "owner");
}

}  // namespace
}  // namespace conclave
