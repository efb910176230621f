// Decode: bf16 GEMV over matrices that together are far larger than any cache, as a share of plain
// read bandwidth. Prefill: GFLOP/s as a share of the AVX2 peak. Each on AVX2 and on the best
// instruction set of the machine.
#include <cstdint>
#include <cstdio>
#include <string>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/gemm/gemm.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/tensor/bench_kit.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

constexpr int kThreads = 2;
constexpr int64_t kHidden = 2048;
constexpr int64_t kBytesTotal = int64_t{3} << 29;  // 1.5 GB of distinct weights

struct Limits {
  double read_gbs = 0;
  double avx2_gflops = 0;
};

// Bits that are neither denormal nor special: filling gigabytes through SetRows' source would take
// longer than the runs.
std::vector<PackedMatrix> Weights(int64_t outputs, int64_t inputs) {
  std::vector<uint16_t> row(inputs);
  for (int64_t k = 0; k < inputs; ++k) row[k] = FloatToBf16(0.5f - static_cast<float>(k % 97) / 97);
  std::vector<PackedMatrix> matrices;
  for (int64_t bytes = 0; bytes < kBytesTotal;) {
    matrices.emplace_back(outputs, inputs, Dtype::kBf16, 8);
    for (int64_t n = 0; n < outputs; ++n) matrices.back().SetRows(n, 1, row.data(), inputs);
    bytes += matrices.back().bytes();
  }
  return matrices;
}

void RunGemm(benchmark::State& state, const std::vector<PackedMatrix>& matrices,
             const Limits& limits) {
  const int64_t tokens = state.range(0);
  UseTarget(state.range(1) != 0 ? HWY_AVX2 : 0);
  ComputePool pool(kThreads);
  const int64_t inputs = matrices[0].inputs(), outputs = matrices[0].outputs();
  const OwnedRows x = OwnedRows::Random(tokens, inputs, 1);
  OwnedRows y(tokens, outputs);
  size_t next = 0;
  for (auto _ : state) {
    Gemm(x.view(), matrices[next], y.view(), pool);
    next = (next + 1) % matrices.size();
  }
  const double calls = static_cast<double>(state.iterations());
  const double gbytes = calls * static_cast<double>(matrices[0].bytes()) * 1e-9;
  const double gflops = calls * 2e-9 * static_cast<double>(tokens * outputs * inputs);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(gbytes, Counter::kIsRate);
  state.counters["of_read_bw"] = Counter(gbytes / limits.read_gbs, Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(gflops, Counter::kIsRate);
  state.counters["of_avx2_peak"] = Counter(gflops / limits.avx2_gflops, Counter::kIsRate);
  UseTarget(0);
}

Limits MeasureLimits() {
  ComputePool pool(kThreads);
  return {.read_gbs = MeasureReadBandwidth(pool, kBytesTotal),
          .avx2_gflops = MeasureAvx2Peak(pool)};
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const Limits limits = MeasureLimits();
  std::printf("limits on %d threads: read %.1f GB/s, AVX2 FMA %.1f GFLOP/s\n", kThreads,
              limits.read_gbs, limits.avx2_gflops);
  const std::vector<PackedMatrix> matrices = Weights(kHidden, kHidden);
  const std::vector<PackedMatrix> large = Weights(32000, kHidden);
  const auto gemm = [&](benchmark::State& state) { RunGemm(state, matrices, limits); };
  const auto head = [&](benchmark::State& state) { RunGemm(state, large, limits); };
  for (const int avx2 : {1, 0}) {
    auto* bench = benchmark::RegisterBenchmark("gemm_2048x2048/tokens/avx2_only", gemm);
    for (const int tokens : {1, 2, 4, 8, 16, 32, 128, 512}) bench->Args({tokens, avx2});
    bench->UseRealTime();
    benchmark::RegisterBenchmark("gemm_32000x2048/tokens/avx2_only", head)
        ->Args({1, avx2})
        ->UseRealTime();
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
