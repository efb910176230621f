#include "comm/device/compute_pool.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "glog/logging.h"

namespace conclave {
namespace {

// Between the loops of a step there are a few microseconds of serial work; a futex wake costs about
// as much as this.
constexpr std::chrono::microseconds kSpin(40);

void Pause() { __builtin_ia32_pause(); }

// The loop that a pool is running, in one word: open (tasks may be left) and how many workers are
// inside.
constexpr uint32_t kOpen = 1u << 31;
constexpr uint32_t kStop = 1u << 30;
constexpr uint32_t kInside = kStop - 1;

}  // namespace

// A worker joins a loop by counting itself inside while the loop is open; whoever finds no task
// left closes it. The caller returns when nobody is inside, so a worker that wakes late costs
// nothing: the others have done its share.
class ComputePool::Impl {
 public:
  explicit Impl(int threads) : spins_(threads <= static_cast<int>(HardwareThreads())) {
    CHECK_GE(threads, 1);
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { WorkerLoop(); });
  }

  ~Impl() {
    state_.fetch_or(kStop, std::memory_order_release);
    state_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int threads() const { return static_cast<int>(workers_.size()) + 1; }

  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t)> work) {
    if (workers_.empty() || tasks <= 1) {
      for (int64_t i = 0; i < tasks; ++i) work(i);
      return;
    }
    work_ = &work;
    tasks_ = tasks;
    next_.store(0, std::memory_order_relaxed);
    CHECK_EQ(state_.exchange(kOpen, std::memory_order_release), 0u)
        << "ParallelFor inside ParallelFor, or from two threads";
    state_.notify_all();
    RunTasks();
    WaitUntil([](uint32_t state) { return (state & kInside) == 0; });
  }

 private:
  static unsigned HardwareThreads() { return std::max(1u, std::thread::hardware_concurrency()); }

  void RunTasks() {
    for (;;) {
      const int64_t i = next_.fetch_add(1, std::memory_order_relaxed);
      if (i >= tasks_) break;
      (*work_)(i);
    }
    state_.fetch_and(~kOpen, std::memory_order_relaxed);
  }

  void WorkerLoop() {
    for (;;) {
      uint32_t state = WaitUntil([](uint32_t s) { return (s & (kOpen | kStop)) != 0; });
      if ((state & kStop) != 0) return;
      if (!state_.compare_exchange_weak(state, state + 1, std::memory_order_acquire)) continue;
      RunTasks();
      const uint32_t before = state_.fetch_sub(1, std::memory_order_release);
      if ((before & kInside) == 1) state_.notify_all();  // the caller may be asleep
    }
  }

  // Spins, then sleeps, until ready(state); returns that state.
  template <typename Ready>
  uint32_t WaitUntil(Ready ready) {
    const auto sleep_at = std::chrono::steady_clock::now() + kSpin;
    for (int i = 1;; ++i) {
      const uint32_t state = state_.load(std::memory_order_acquire);
      if (ready(state)) return state;
      Pause();
      if (!spins_ || (i % 16 == 0 && std::chrono::steady_clock::now() >= sleep_at)) break;
    }
    for (;;) {
      const uint32_t state = state_.load(std::memory_order_acquire);
      if (ready(state)) return state;
      state_.wait(state, std::memory_order_acquire);
    }
  }

  const bool spins_;  // false with more threads than cores: spinning would take the core from the
                      // one that works
  std::vector<std::thread> workers_;
  absl::FunctionRef<void(int64_t)>* work_ = nullptr;
  int64_t tasks_ = 0;
  alignas(64) std::atomic<int64_t> next_{0};
  alignas(64) std::atomic<uint32_t> state_{0};
};

ComputePool::ComputePool(int threads) : impl_(std::make_unique<Impl>(threads)) {}

ComputePool::~ComputePool() = default;

int ComputePool::threads() const { return impl_->threads(); }

void ComputePool::ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t)> work) {
  impl_->ParallelFor(tasks, work);
}

}  // namespace conclave
