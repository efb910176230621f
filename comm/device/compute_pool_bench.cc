// The cost of an empty parallel loop: what every kernel call pays. Expect one to three microseconds
// with spinning workers.
#include <cstdint>

#include "benchmark/benchmark.h"
#include "comm/device/compute_pool.h"

namespace conclave {
namespace {

void EmptyLoop(benchmark::State& state) {
  ComputePool pool(static_cast<int>(state.range(0)));
  for (auto _ : state) {
    pool.ParallelFor(pool.threads(), [](int64_t i) { benchmark::DoNotOptimize(i); });
  }
}
BENCHMARK(EmptyLoop)->Arg(1)->Arg(2)->Arg(4)->UseRealTime();

}  // namespace
}  // namespace conclave

BENCHMARK_MAIN();
