#include "kernels/tensor/bench_kit.h"

#include <immintrin.h>
#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int64_t kPrefetchBytes = 2048;

double Seconds(std::chrono::steady_clock::time_point since) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - since).count();
}

// With and without software prefetch: which is faster depends on the machine, and the limit is the
// better.
template <bool kPrefetch>
__attribute__((target("avx2"))) uint64_t SumWords(const uint8_t* data, int64_t bytes) {
  __m256i sum[4] = {};
  for (int64_t i = 0; i < bytes; i += 128) {
    if (kPrefetch) {
      __builtin_prefetch(data + i + kPrefetchBytes);
      __builtin_prefetch(data + i + kPrefetchBytes + 64);
    }
    for (int j = 0; j < 4; ++j) {
      const auto* from = reinterpret_cast<const __m256i*>(data + i + 32 * j);
      sum[j] = _mm256_add_epi64(sum[j], _mm256_load_si256(from));
    }
  }
  const __m256i all =
      _mm256_add_epi64(_mm256_add_epi64(sum[0], sum[1]), _mm256_add_epi64(sum[2], sum[3]));
  return static_cast<uint64_t>(_mm256_extract_epi64(all, 0) + _mm256_extract_epi64(all, 1) +
                               _mm256_extract_epi64(all, 2) + _mm256_extract_epi64(all, 3));
}

// Twelve chains hide the latency of four or five cycles on two ports. They start apart, or the
// compiler would find out that they are one.
__attribute__((target("avx2,fma"))) float FmaChains(int64_t rounds) {
  const __m256 a = _mm256_set1_ps(0.999f), b = _mm256_set1_ps(1e-3f);
  __m256 s[12];
#pragma GCC unroll 12
  for (int j = 0; j < 12; ++j) s[j] = _mm256_set1_ps(static_cast<float>(j));
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
    for (int j = 0; j < 12; ++j) s[j] = _mm256_fmadd_ps(s[j], a, b);
  }
  __m256 sum = s[0];
#pragma GCC unroll 12
  for (int j = 1; j < 12; ++j) sum = _mm256_add_ps(sum, s[j]);
  return _mm256_cvtss_f32(sum);
}

}  // namespace

double MeasureReadBandwidth(ComputePool& pool, int64_t bytes) {
  constexpr int64_t kChunk = int64_t{4} << 20;
  const int64_t chunks = std::max<int64_t>(1, bytes / kChunk);
  const int64_t mapped = (chunks + 1) * kChunk;
  void* map = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  PCHECK(map != MAP_FAILED);
  (void)madvise(map, mapped, MADV_HUGEPAGE);
  auto* data =
      reinterpret_cast<uint8_t*>((reinterpret_cast<uintptr_t>(map) + kChunk - 1) / kChunk * kChunk);
  pool.ParallelFor(chunks, [&](int64_t i) { std::memset(data + i * kChunk, 1, kChunk); });
  std::atomic<uint64_t> total{0};
  double best = 0;
  for (int pass = 0; pass < 8; ++pass) {
    const auto sum = pass % 2 == 0 ? SumWords<false> : SumWords<true>;
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(chunks, [&](int64_t i) {
      total.fetch_add(sum(data + i * kChunk, kChunk), std::memory_order_relaxed);
    });
    best = std::max(best, static_cast<double>(chunks * kChunk) / Seconds(begin) * 1e-9);
  }
  CHECK_NE(total.load(), 0u);
  PCHECK(munmap(map, mapped) == 0);
  return best;
}

double MeasureAvx2Peak(ComputePool& pool) {
  constexpr int64_t kRounds = 2000000;
  std::atomic<int> finite{0};
  double best = 0;
  for (int pass = 0; pass < 5; ++pass) {
    const auto begin = std::chrono::steady_clock::now();
    pool.ParallelFor(pool.threads(), [&](int64_t) {
      if (FmaChains(kRounds) > 0) finite.fetch_add(1, std::memory_order_relaxed);
    });
    const double flops = 2.0 * 8 * 12 * kRounds * pool.threads();
    best = std::max(best, flops / Seconds(begin) * 1e-9);
  }
  CHECK_GT(finite.load(), 0);
  return best;
}

}  // namespace conclave
