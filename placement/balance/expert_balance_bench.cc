// Time to place a whole model of Kimi-K2's size: 61 layers of 384 experts on 1,024 ranks, from
// nothing and after a drift of the load; one thread.
#include "benchmark/benchmark.h"
#include "placement/balance/balance_test_loads.h"
#include "placement/balance/expert_balance.h"

namespace conclave {
namespace {

constexpr int kLayers = 61, kExperts = 384, kRanks = 1024;

void FromNothing(benchmark::State& state) {
  const LoadProfile load = SkewedLoad(kLayers, kExperts, 1.0, 7);
  const std::vector<BalanceRank> ranks = EvenRanks(kRanks, 1, 8);
  for (auto _ : state) benchmark::DoNotOptimize(BalanceExperts(load, ranks, {}, {}));
}

void AfterADrift(benchmark::State& state) {
  const LoadProfile load = SkewedLoad(kLayers, kExperts, 1.0, 7);
  const std::vector<BalanceRank> ranks = EvenRanks(kRanks, 1, 8);
  const auto first = BalanceExperts(load, ranks, {}, {});
  const LoadProfile later = Drifted(load, 0.1, 8);
  for (auto _ : state) benchmark::DoNotOptimize(BalanceExperts(later, ranks, first->map, {}));
}

BENCHMARK(FromNothing)->Unit(benchmark::kMillisecond);
BENCHMARK(AfterADrift)->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace conclave

BENCHMARK_MAIN();
