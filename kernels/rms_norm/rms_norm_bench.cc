// GB/s of reading and writing a batch of rows that stays in the cache, as it does inside a step.
#include <cstdint>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/rms_norm/rms_norm.h"

namespace conclave {
namespace {

void BenchRmsNorm(benchmark::State& state) {
  const int64_t rows = state.range(0), cols = state.range(1);
  const OwnedRows x = OwnedRows::Random(rows, cols, 1);
  const std::vector<float> weight(cols, 1.0f);
  OwnedRows y(rows, cols);
  for (auto _ : state) RmsNorm(x.view(), weight, 1e-6f, y.view());
  state.counters["GB/s"] =
      benchmark::Counter(static_cast<double>(state.iterations() * rows * cols * 8) * 1e-9,
                         benchmark::Counter::kIsRate);
}
BENCHMARK(BenchRmsNorm)->Args({1, 2048})->Args({64, 2048})->Args({1, 7168});

}  // namespace
}  // namespace conclave

BENCHMARK_MAIN();
