#include "worker/model/cuda/op_trace.h"

#include <utility>

#include "comm/base/status.h"
#include "nvtx3/nvToolsExt.h"

namespace conclave {

// Begin of an operator; an empty name ends the last.
struct OpTrace::Mark {
  const char* name = "";
  int layer = -1;
  OpCost cost;
  std::chrono::steady_clock::time_point enqueued;
};

OpTrace::OpTrace(int rank, const TraceSink* sink) : rank_(rank), sink_(sink) {}

OpTrace::~OpTrace() = default;

absl::Status OpTrace::AddMark(Mark mark, CudaStream stream) {
  if (events_.size() == marks_.size()) {
    ASSIGN_OR_RETURN(CudaEvent event, CudaEvent::Create());
    events_.push_back(std::move(event));
  }
  mark.enqueued = std::chrono::steady_clock::now();
  RETURN_IF_ERROR(events_[marks_.size()].Record(stream));
  marks_.push_back(mark);
  return absl::OkStatus();
}

void OpTrace::Enter(const char* name, int layer, OpCost cost, CudaStream stream) {
  if (in_range_) nvtxRangePop();
  nvtxRangePushA(name);
  in_range_ = true;
  if (on() && status_.ok()) status_ = AddMark({name, layer, cost, {}}, stream);
}

absl::Status OpTrace::Finish(CudaStream stream) {
  if (in_range_) nvtxRangePop();
  in_range_ = false;
  if (!on() || marks_.empty()) return std::exchange(status_, absl::OkStatus());
  if (status_.ok()) status_ = AddMark({}, stream);
  RETURN_IF_ERROR(std::exchange(status_, absl::OkStatus()));
  RETURN_IF_ERROR(events_[marks_.size() - 1].Synchronize());
  const double origin =
      std::chrono::duration<double, std::micro>(marks_.front().enqueued.time_since_epoch()).count();
  std::vector<OpSpan> spans;
  for (size_t i = 0; i + 1 < marks_.size(); ++i) {
    OpSpan span;
    span.name = marks_[i].name;
    span.rank = rank_;
    span.layer = marks_[i].layer;
    span.bytes = marks_[i].cost.bytes;
    span.flops = marks_[i].cost.flops;
    ASSIGN_OR_RETURN(const double begin, events_[i].MicrosecondsSince(events_[0]));
    ASSIGN_OR_RETURN(span.duration_us, events_[i + 1].MicrosecondsSince(events_[i]));
    span.begin_us = origin + begin;
    spans.push_back(std::move(span));
  }
  marks_.clear();
  (*sink_)(std::move(spans));
  return absl::OkStatus();
}

}  // namespace conclave
