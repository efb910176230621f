#include "worker/model/step_context.h"

#include <utility>

#include "glog/logging.h"
#include "kernels/gemm/gemm.h"
#include "kernels/rms_norm/rms_norm.h"

namespace conclave {

void StepMeter::Start() {
  started_ = entered_ = Clock::now();
  phase_ = Phase::kOther;
  nanos_ = {};
  weight_bytes_ = 0;
}

Phase StepMeter::Enter(Phase phase) {
  const Clock::time_point now = Clock::now();
  nanos_[static_cast<size_t>(phase_)] +=
      std::chrono::duration_cast<std::chrono::nanoseconds>(now - entered_).count();
  entered_ = now;
  return std::exchange(phase_, phase);
}

void StepMeter::Finish(StepResult& result) {
  Enter(Phase::kOther);
  const auto micros = [this](Phase phase) { return nanos_[static_cast<size_t>(phase)] / 1000; };
  result.timings.total_us =
      std::chrono::duration_cast<std::chrono::microseconds>(entered_ - started_).count();
  result.timings.attention_us = micros(Phase::kAttention);
  result.timings.experts_us = micros(Phase::kExperts);
  result.timings.exchange_us = micros(Phase::kExchange);
  result.timings.collective_us = micros(Phase::kCollective);
  result.timings.head_us = micros(Phase::kHead);
  result.weight_bytes_read = weight_bytes_;
}

void NormResidual(StepContext& ctx, absl::Span<const float> weight) {
  const float epsilon = ctx.shape.norm_epsilon;
  if (ctx.delta_pending) {
    AddRmsNorm(ctx.Hidden(), ctx.Delta(), weight, epsilon, ctx.Normed());
  } else {
    RmsNorm(ctx.Hidden(), weight, epsilon, ctx.Normed());
  }
  ctx.delta_pending = false;
}

void SettleResidual(StepContext& ctx) {
  if (!ctx.delta_pending) return;
  const Rows hidden = ctx.Hidden();
  const Rows delta = ctx.Delta();
  for (int64_t i = 0; i < hidden.rows * hidden.cols; ++i) hidden.data[i] += delta.data[i];
  ctx.delta_pending = false;
}

absl::Status SumOverTp(StepContext& ctx, Rows data, const char* name, int layer) {
  CHECK_EQ(data.stride, data.cols);
  if (ctx.tp.size() == 1) return absl::OkStatus();
  const Phase before = ctx.meter.Enter(Phase::kCollective);
  const absl::Status status = ctx.fabric.AllReduceSum(
      ctx.tp, absl::MakeSpan(data.data, data.rows * data.cols), ctx.Op(name, layer));
  ctx.meter.Enter(before);
  return status;
}

void Project(StepContext& ctx, ConstRows x, const PackedMatrix& weights, Rows y) {
  Gemm(x, weights, y, ctx.pool);
  ctx.meter.AddWeightBytes(weights.bytes());
}

}  // namespace conclave
