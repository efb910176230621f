#include "worker/model/dense_block.h"

#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/expert_ffn/expert_ffn.h"

namespace conclave {

absl::Status DenseBlock(StepContext& ctx, const LayerState& layer) {
  if (ctx.tokens() == 0) return absl::OkStatus();
  CHECK_EQ(layer.slots.size(), 1u) << "dense layer " << layer.weights->layer;
  ctx.meter.Enter(Phase::kExperts);
  NormResidual(ctx, layer.weights->ffn_norm);
  ctx.meter.AddWeightBytes(DenseFfn(ctx.Normed(), *layer.slots[0], ctx.Delta(), ctx.pool));
  RETURN_IF_ERROR(SumOverTp(ctx, ctx.Delta(), "dense_ffn", layer.weights->layer));
  ctx.delta_pending = true;
  return absl::OkStatus();
}

}  // namespace conclave
