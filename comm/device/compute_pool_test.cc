#include "comm/device/compute_pool.h"

#include <atomic>
#include <cstdint>
#include <latch>
#include <numeric>
#include <thread>
#include <vector>

#include "absl/time/clock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ComputePool, RunsEachTaskOnce) {
  for (const int threads : {1, 2, 3, 8}) {
    ComputePool pool(threads);
    EXPECT_EQ(pool.threads(), threads);
    for (const int64_t tasks : {0, 1, 2, 7, 1000}) {
      std::vector<int> runs(tasks, 0);
      pool.ParallelFor(tasks, [&](int64_t i) { ++runs[i]; });
      EXPECT_EQ(runs, std::vector<int>(tasks, 1)) << threads << " threads";
    }
  }
}

TEST(ComputePool, OneThreadRunsInline) {
  ComputePool pool(1);
  const std::thread::id self = std::this_thread::get_id();
  std::vector<int64_t> order;
  pool.ParallelFor(5, [&](int64_t i) {
    EXPECT_EQ(std::this_thread::get_id(), self);
    order.push_back(i);
  });
  EXPECT_EQ(order, (std::vector<int64_t>{0, 1, 2, 3, 4}));
}

TEST(ComputePool, UsesAllThreads) {
  ComputePool pool(3);
  // Each task waits until all three have begun: that needs three threads at once.
  std::latch begun(3);
  pool.ParallelFor(3, [&](int64_t) { begun.arrive_and_wait(); });
}

TEST(ComputePool, WritesOfTasksAreVisibleAfterTheLoopAndToTheNext) {
  ComputePool pool(4);
  std::vector<int64_t> values(256, 0);
  for (int round = 0; round < 2000; ++round) {
    pool.ParallelFor(16, [&](int64_t i) {
      for (int64_t j = 0; j < 16; ++j) values[(i * 16 + j + round) % 256] += 1;
    });
  }
  EXPECT_EQ(std::accumulate(values.begin(), values.end(), int64_t{0}), 2000 * 256);
  EXPECT_EQ(values[0], 2000);
}

TEST(ComputePool, WakesSleepingWorkers) {
  ComputePool pool(2);
  for (int round = 0; round < 20; ++round) {
    // Longer than the workers spin, so that they have gone to sleep.
    const absl::Time until = absl::Now() + absl::Microseconds(300);
    while (absl::Now() < until) std::this_thread::yield();
    std::latch begun(2);
    pool.ParallelFor(2, [&](int64_t) { begun.arrive_and_wait(); });
  }
}

TEST(ComputePool, DestructionWithoutWorkJoins) {
  for (int i = 0; i < 50; ++i) ComputePool pool(4);
}

TEST(ComputePool, PoolsAreIndependent) {
  // A task of one pool may use another pool.
  ComputePool outer(2);
  std::atomic<int64_t> total{0};
  outer.ParallelFor(4, [&](int64_t) {
    ComputePool inner(2);
    inner.ParallelFor(10, [&](int64_t i) { total += i; });
  });
  EXPECT_EQ(total.load(), 4 * 45);
}

TEST(ComputePoolDeathTest, NestedLoopIsABug) {
  EXPECT_DEATH(
      {
        ComputePool pool(2);
        pool.ParallelFor(2, [&](int64_t) { pool.ParallelFor(2, [](int64_t) {}); });
      },
      "ParallelFor inside ParallelFor");
}

}  // namespace
}  // namespace conclave
