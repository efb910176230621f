// OpTrace: what the operators of a step on a GPU cost: each operator announces itself before it
// enqueues its kernels, with the bytes and flops that it cannot do without. Off, it only marks
// NVTX ranges for profilers. On, it times operators by events, one after the other, without graphs
// and without overlap, and hands the spans to a TraceSink when the step has ended. Owned by a
// model; engine's thread.
#pragma once

#include <chrono>
#include <vector>

#include "absl/status/status.h"
#include "comm/device/cuda_memory.h"
#include "worker/model/cuda/op_span.h"

namespace conclave {

// What an operator cannot do without.
struct OpCost {
  double bytes = 0;
  double flops = 0;
};

class OpTrace {
 public:
  // A null sink: off.
  OpTrace(int rank, const TraceSink* sink);
  ~OpTrace();
  OpTrace(const OpTrace&) = delete;
  OpTrace& operator=(const OpTrace&) = delete;

  bool on() const { return sink_ != nullptr; }
  // The operators that follow, until the next Enter, are `name` of `layer`. Errors show in Finish.
  void Enter(const char* name, int layer, OpCost cost, CudaStream stream);
  // Ends the last operator; when on, waits for the stream and reports.
  absl::Status Finish(CudaStream stream);

 private:
  struct Mark;
  absl::Status AddMark(Mark mark, CudaStream stream);

  const int rank_;
  const TraceSink* const sink_;
  std::vector<Mark> marks_;
  std::vector<CudaEvent> events_;
  absl::Status status_;
  bool in_range_ = false;
};

}  // namespace conclave
