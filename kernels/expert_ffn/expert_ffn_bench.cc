// The MoE layer of OLMoE-1B-7B (hidden 2048, 64 experts of ffn 1024, top 8, bf16). One row is
// decode: bytes of the touched experts as a share of plain read bandwidth. Many rows are prefill:
// GFLOP/s as a share of the AVX2 peak.
#include <cstdint>
#include <cstdio>
#include <vector>

#include "benchmark/benchmark.h"
#include "kernels/expert_ffn/ffn_test_kit.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/tensor/bench_kit.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

constexpr int kThreads = 2;
constexpr int kTopK = 8;
constexpr int kExperts = 64;
constexpr int kLayers = 2;  // 1.6 GB of distinct weights
constexpr int64_t kHidden = 2048, kFfn = 1024;

struct Limits {
  double read_gbs = 0;
  double avx2_gflops = 0;
};

std::vector<FfnWeights> Experts() {
  std::vector<uint16_t> row(kHidden);
  for (int64_t k = 0; k < kHidden; ++k) row[k] = FloatToBf16(static_cast<float>(k % 97) / 970);
  std::vector<FfnWeights> experts;
  for (int i = 0; i < kExperts * kLayers; ++i) {
    FfnWeights w;
    w.ffn = kFfn;
    w.gate_up = PackedMatrix(2 * kFfn, kHidden, Dtype::kBf16, 8);
    w.down = PackedMatrix(kHidden, kFfn, Dtype::kBf16, 8);
    for (int64_t n = 0; n < 2 * kFfn; ++n) w.gate_up.SetRows(n, 1, row.data(), kHidden);
    for (int64_t n = 0; n < kHidden; ++n) w.down.SetRows(n, 1, row.data(), kFfn);
    experts.push_back(std::move(w));
  }
  return experts;
}

void RunFfn(benchmark::State& state, const std::vector<FfnWeights>& experts, const Limits& limits) {
  const int64_t rows = state.range(0);
  UseTarget(state.range(1) != 0 ? HWY_AVX2 : 0);
  std::vector<const FfnWeights*> layers[kLayers];
  for (size_t i = 0; i < experts.size(); ++i) layers[i / kExperts].push_back(&experts[i]);
  std::vector<Routing> routings;
  for (int i = 0; i < 16; ++i) routings.push_back(RandomRouting(rows, kTopK, kExperts, 1000 + i));
  const OwnedRows x = OwnedRows::Random(rows, kHidden, 1);
  OwnedRows out(rows * kTopK, kHidden);
  ComputePool pool(kThreads);
  double bytes = 0;
  size_t call = 0;
  for (auto _ : state) {
    const Routing& r = routings[call % routings.size()];
    bytes += static_cast<double>(
        ExpertFfn({x.view(), r.row_of_entry, &r.table, layers[call % kLayers], out.view()}, pool));
    ++call;
  }
  const double gflops = static_cast<double>(call) * static_cast<double>(rows) * kTopK * 6e-9 *
                        static_cast<double>(kHidden * kFfn);
  using benchmark::Counter;
  state.counters["GB/s"] = Counter(bytes * 1e-9, Counter::kIsRate);
  state.counters["of_read_bw"] = Counter(bytes * 1e-9 / limits.read_gbs, Counter::kIsRate);
  state.counters["GFLOP/s"] = Counter(gflops, Counter::kIsRate);
  state.counters["of_avx2_peak"] = Counter(gflops / limits.avx2_gflops, Counter::kIsRate);
  UseTarget(0);
}

int Main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  const std::vector<FfnWeights> experts = Experts();
  Limits limits;
  {
    ComputePool pool(kThreads);
    limits = {MeasureReadBandwidth(pool, int64_t{3} << 29), MeasureAvx2Peak(pool)};
  }
  std::printf("limits on %d threads: read %.1f GB/s, AVX2 FMA %.1f GFLOP/s\n", kThreads,
              limits.read_gbs, limits.avx2_gflops);
  const auto run = [&](benchmark::State& state) { RunFfn(state, experts, limits); };
  for (const int avx2 : {1, 0}) {
    auto* bench = benchmark::RegisterBenchmark("expert_ffn_2048x1024x64/rows/avx2_only", run);
    for (const int rows : {1, 2, 4, 16, 64, 512}) bench->Args({rows, avx2});
    bench->UseRealTime();
  }
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}

}  // namespace
}  // namespace conclave

int main(int argc, char** argv) { return conclave::Main(argc, argv); }
