// ComputePool: the CPU as a device. A fixed set of threads that run the parallel loops of kernels;
// the caller's thread is one of them. Loops are short (microseconds), so workers spin a little
// before they sleep, unless there is one thread. One loop at a time; the owner's thread calls
// ParallelFor.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/functional/function_ref.h"

namespace conclave {

class ComputePool {
 public:
  // threads >= 1, the caller's included.
  explicit ComputePool(int threads);
  ~ComputePool();
  ComputePool(const ComputePool&) = delete;
  ComputePool& operator=(const ComputePool&) = delete;

  int threads() const;

  // Calls work(i) for i in [0, tasks), each once, on any of the threads; returns when all are done.
  // Tasks are handed out in order, one at a time: give each some microseconds of work.
  void ParallelFor(int64_t tasks, absl::FunctionRef<void(int64_t)> work);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace conclave
