#include <algorithm>
#include <chrono>
#include <functional>
#include <memory>
#include <numeric>
#include <vector>

#include "absl/strings/str_cat.h"
#include "comm/base/dtype.h"
#include "comm/base/status.h"
#include "comm/device/compute_pool.h"
#include "kernels/attention/paged_attention.h"
#include "kernels/expert_ffn/expert_ffn.h"
#include "kernels/gemm/gemm.h"
#include "kernels/tensor/cpu_support.h"
#include "tools/cli/calibration.h"
#include "tools/cli/memory_bandwidth.h"
#include "tools/cli/model_options.h"

namespace conclave {
namespace {

constexpr int64_t kReadBytes = int64_t{1} << 30;  // several times any last-level cache
constexpr int64_t kHidden = 2048, kFfn = 1024;    // OLMoE-1B-7B's experts: 12.6 MB of bf16 each
constexpr int kExperts = 64;                      // 0.8 GB, so that no pass finds them in a cache
constexpr int kTopK = 8;
constexpr int64_t kGemmTokens = 512;
constexpr int kGemmRuns = 15;
constexpr int kLoopRuns = 4000;

double Seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

double Median(std::vector<double> values) {
  std::nth_element(values.begin(), values.begin() + values.size() / 2, values.end());
  return values[values.size() / 2];
}

// Weights that are neither zero, denormal nor special, so that no run is faster than a model's.
std::vector<uint16_t> WeightRow(int64_t inputs) {
  std::vector<uint16_t> row(inputs);
  for (int64_t k = 0; k < inputs; ++k) row[k] = FloatToBf16(static_cast<float>(k % 97) / 970);
  return row;
}

std::vector<float> Activations(int64_t count) {
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = static_cast<float>(i % 89 - 44) / 89;
  return x;
}

// Filled by all threads: a page belongs to the memory of the core that first writes it.
std::vector<FfnWeights> MakeExperts(int count, int64_t hidden, int64_t ffn, ComputePool& pool) {
  const std::vector<uint16_t> row = WeightRow(std::max(hidden, ffn));
  std::vector<FfnWeights> experts(count);
  pool.ParallelFor(count, [&](int64_t i) {
    FfnWeights& w = experts[i];
    w.ffn = ffn;
    w.gate_up = PackedMatrix(2 * ffn, hidden, Dtype::kBf16, 8);
    w.down = PackedMatrix(hidden, ffn, Dtype::kBf16, 8);
    for (int64_t n = 0; n < 2 * ffn; ++n) w.gate_up.SetRows(n, 1, row.data(), hidden);
    for (int64_t n = 0; n < hidden; ++n) w.down.SetRows(n, 1, row.data(), ffn);
  });
  return experts;
}

// Bytes/s of the experts of one token, other experts each time: a decode step's MoE layer.
double StreamRate(ComputePool& pool) {
  const std::vector<FfnWeights> experts = MakeExperts(kExperts, kHidden, kFfn, pool);
  const std::vector<float> x = Activations(kHidden);
  std::vector<float> out(kTopK * kHidden);
  const std::vector<int32_t> rows(kTopK, 0);
  std::vector<int32_t> slots(kTopK);
  std::iota(slots.begin(), slots.end(), 0);
  SlotTable table;
  BuildSlotTable(slots, kTopK, table);
  std::vector<double> rates;
  constexpr int kPasses = 5;
  for (int pass = 0; pass < kPasses; ++pass) {
    int64_t bytes = 0;
    const double seconds = Seconds([&] {
      for (int first = 0; first < kExperts; first += kTopK) {
        std::vector<const FfnWeights*> chosen;
        for (int e = first; e < first + kTopK; ++e) chosen.push_back(&experts[e]);
        bytes += ExpertFfn({{x.data(), 1, kHidden, kHidden},
                            rows,
                            &table,
                            chosen,
                            {out.data(), kTopK, kHidden, kHidden}},
                           pool);
      }
    });
    rates.push_back(static_cast<double>(bytes) / seconds);
  }
  return Median(std::move(rates));
}

// Seconds of a PrefillFfn: the median run after a first.
double PrefillFfnSeconds(ComputePool& pool) {
  using Size = PrefillFfn;
  const std::vector<FfnWeights> experts =
      MakeExperts(Size::kExperts, Size::kHidden, Size::kFfn, pool);
  const int64_t hidden = Size::kHidden;
  const int64_t entries = int64_t{Size::kExperts} * Size::kRowsEach;
  const std::vector<float> x = Activations(entries * hidden);
  std::vector<float> out(entries * hidden);
  std::vector<int32_t> rows(entries);
  std::iota(rows.begin(), rows.end(), 0);
  std::vector<int32_t> slots(entries);
  for (int64_t e = 0; e < entries; ++e) slots[e] = static_cast<int32_t>(e / Size::kRowsEach);
  SlotTable table;
  BuildSlotTable(slots, static_cast<int32_t>(experts.size()), table);
  std::vector<const FfnWeights*> chosen;
  for (const FfnWeights& expert : experts) chosen.push_back(&expert);
  const auto run = [&] {
    ExpertFfn({{x.data(), entries, hidden, hidden},
               rows,
               &table,
               chosen,
               {out.data(), entries, hidden, hidden}},
              pool);
  };
  run();
  std::vector<double> seconds;
  for (int i = 0; i < kGemmRuns; ++i) seconds.push_back(Seconds(run));
  return Median(std::move(seconds));
}

// FLOP/s of a prompt's attention, heads of 128, as the cost model counts them.
double AttentionRate(ComputePool& pool) {
  constexpr int kTokens = 128, kHeads = 16, kHeadDim = 128, kPageTokens = 16;
  constexpr int kPages = kTokens / kPageTokens;
  constexpr int64_t kWidth = kHeads * kHeadDim;
  KvLayer cache{nullptr, Dtype::kF32, kPages, kPageTokens, kHeads, kHeadDim};
  std::vector<float> memory(kPages * cache.PageBytes() / sizeof(float) + 16, 0.01f);
  void* aligned = memory.data();
  size_t space = memory.size() * sizeof(float);
  cache.data = std::align(64, kPages * cache.PageBytes(), aligned, space);
  const std::vector<int32_t> first_token = {0, kTokens}, position = {0}, first_page = {0, kPages};
  std::vector<int32_t> table(kPages);
  std::iota(table.begin(), table.end(), 0);
  const std::vector<float> q = Activations(kTokens * kWidth);
  std::vector<float> out(kTokens * kWidth);
  const AttentionArgs args{{first_token, position, first_page, table},
                           {q.data(), kTokens, kWidth, kWidth},
                           cache,
                           kHeads,
                           0.088f,
                           {out.data(), kTokens, kWidth, kWidth}};
  PagedAttention(args, pool);
  std::vector<double> seconds;
  for (int i = 0; i < kGemmRuns; ++i) {
    seconds.push_back(Seconds([&] { PagedAttention(args, pool); }));
  }
  return 4.0 * kWidth * kTokens * (kTokens / 2.0) / Median(std::move(seconds));
}

double GemmRate(Dtype dtype, ComputePool& pool) {
  PackedMatrix weights(kHidden, kHidden, dtype, 8);
  const std::vector<uint16_t> half = WeightRow(kHidden);
  const std::vector<float> full = Activations(kHidden);
  const void* row = dtype == Dtype::kF32 ? static_cast<const void*>(full.data()) : half.data();
  for (int64_t n = 0; n < kHidden; ++n) weights.SetRows(n, 1, row, kHidden);
  const std::vector<float> x = Activations(kGemmTokens * kHidden);
  std::vector<float> y(kGemmTokens * kHidden);
  const auto run = [&] {
    Gemm({x.data(), kGemmTokens, kHidden, kHidden}, weights,
         {y.data(), kGemmTokens, kHidden, kHidden}, pool);
  };
  run();
  std::vector<double> seconds;
  for (int i = 0; i < kGemmRuns; ++i) seconds.push_back(Seconds(run));
  // The best, as of the memory's bandwidth: what is there when nobody disturbs.
  return 2.0 * kGemmTokens * kHidden * kHidden / *std::min_element(seconds.begin(), seconds.end());
}

// A product of one panel for each thread: what is left is the loop's start and end.
double LoopSeconds(ComputePool& pool) {
  constexpr int64_t kInputs = 64;
  PackedMatrix weights(PackedMatrix::kPanel * pool.threads(), kInputs, Dtype::kBf16, 8);
  const std::vector<float> x = Activations(kInputs);
  std::vector<float> y(weights.outputs());
  std::vector<double> seconds;
  for (int i = 0; i < kLoopRuns; ++i) {
    seconds.push_back(Seconds([&] {
      Gemm({x.data(), 1, kInputs, kInputs}, weights,
           {y.data(), 1, weights.outputs(), weights.outputs()}, pool);
    }));
  }
  return Median(std::move(seconds));
}

}  // namespace

CpuProbe ProbeCpu(int threads) {
  ComputePool pool(threads);
  return {MeasureReadBandwidth(threads, kReadBytes), GemmRate(Dtype::kBf16, pool)};
}

absl::StatusOr<DeviceCalibration> CalibrateCpu(int threads) {
  RETURN_IF_ERROR(CheckCpuSupported());
  if (MachineMemoryBytes() < 2 * kReadBytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "bench calibrate reads ", kReadBytes >> 20, " MiB and needs twice that; this machine has ",
        MachineMemoryBytes() >> 20, " MiB: write the profile by hand"));
  }
  DeviceCalibration found;
  found.read_bandwidth = MeasureReadBandwidth(threads, kReadBytes);
  ComputePool pool(threads);
  found.stream_bandwidth = StreamRate(pool);
  found.bf16_flops = GemmRate(Dtype::kBf16, pool);
  found.f32_flops = GemmRate(Dtype::kF32, pool);
  found.kernel_seconds = LoopSeconds(pool);
  found.attention_flops = AttentionRate(pool);
  found.prefill_ffn_seconds = PrefillFfnSeconds(pool);
  return found;
}

}  // namespace conclave
