#include "tools/cli/memory_bandwidth.h"

#include <sys/mman.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <thread>
#include <vector>

#include "glog/logging.h"

namespace conclave {
namespace {

constexpr int kPasses = 3;

// Sums the words of 32-byte vectors with four independent accumulators, so that loads, not
// additions, are the limit. `ahead` is how many bytes before their use lines are prefetched; 0:
// left to the hardware.
template <int ahead>
__attribute__((target("avx2"), optimize("O3"))) uint64_t SumLines(const uint64_t* data,
                                                                  int64_t words) {
  typedef uint64_t Vector __attribute__((vector_size(32)));
  Vector sums[4] = {};
  const auto* vectors = reinterpret_cast<const Vector*>(data);
  for (int64_t i = 0; i + 4 <= words / 4; i += 4) {
    if (ahead > 0) {
      __builtin_prefetch(reinterpret_cast<const char*>(vectors + i) + ahead);
      __builtin_prefetch(reinterpret_cast<const char*>(vectors + i) + ahead + 64);
    }
    for (int j = 0; j < 4; ++j) sums[j] += vectors[i + j];
  }
  const Vector sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  return sum[0] + sum[1] + sum[2] + sum[3];
}

using Sum = uint64_t (*)(const uint64_t* data, int64_t words);
// With and without prefetching: which is faster depends on the machine.
constexpr Sum kSums[] = {&SumLines<0>, &SumLines<1024>, &SumLines<4096>};

// Seconds that `threads` threads take to read `words` words each.
double TimeReads(Sum sum, const uint64_t* data, int threads, int64_t words) {
  std::atomic<uint64_t> total{0};
  const auto begin = std::chrono::steady_clock::now();
  std::vector<std::thread> readers;
  for (int t = 0; t < threads; ++t) {
    readers.emplace_back([&total, sum, data, words, t] { total += sum(data + t * words, words); });
  }
  for (std::thread& reader : readers) reader.join();
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  CHECK_NE(total.load(), 0u);
  return seconds.count();
}

}  // namespace

double MeasureReadBandwidth(int threads, int64_t bytes) {
  bytes = bytes / (threads * 4096) * (threads * 4096);
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  CHECK(memory != MAP_FAILED) << "cannot map " << bytes << " bytes to measure bandwidth";
  madvise(memory, bytes, MADV_HUGEPAGE);
  memset(memory, 1, bytes);
  const int64_t words = bytes / 8 / threads;
  double best = 0;
  for (int pass = 0; pass < kPasses; ++pass) {
    for (const Sum sum : kSums) {
      const double seconds = TimeReads(sum, static_cast<const uint64_t*>(memory), threads, words);
      best = std::max(best, static_cast<double>(bytes) / seconds);
    }
  }
  munmap(memory, bytes);
  return best;
}

}  // namespace conclave
