#include "worker/model/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/embedding/embedding.h"
#include "kernels/rope/rope.h"
#include "worker/model/cpu_blocks.h"
#include "worker/model/home_combine.h"
#include "worker/model/stage.h"

namespace conclave {
Model::Model(const ModelParts& parts)
    : parts_(parts),
      at_(parts.assign.plan.spec.PositionOf(parts.assign.rank)),
      first_stage_(at_.pp == 0),
      last_stage_(at_.pp == parts.assign.plan.spec.pp - 1),
      tp_(TpGroup(parts.assign.plan.spec, at_)),
      rope_frequencies_(RopeFrequencies(RopeOptionsOf(parts.assign.shape))),
      layer_function_(LayerOf(parts.assign.shape.architecture)) {
  CHECK_EQ(parts.fabric.rank(), parts.assign.rank);
  const Assign& assign = parts.assign;
  if (assign.shape.IsMoe()) {
    exchange_ = std::make_unique<MoeExchange>(
        parts.fabric, assign.plan.experts, ExchangeOptionsOf(assign, parts.nodes, parts.timeout));
  }
  for (size_t i = 0; i < parts.weights.layers.size(); ++i) {
    layers_.push_back(MakeLayer(static_cast<int>(i)));
  }
}

Model::~Model() = default;

LayerState Model::MakeLayer(int index) {
  const LayerWeights& weights = parts_.weights.layers[index];
  LayerState state;
  state.weights = &weights;
  state.cache = parts_.kv.Layer(index);
  for (const FfnWeights& slot : weights.slots) state.slots.push_back(&slot);
  const Assign& assign = parts_.assign;
  if (!assign.shape.IsMoeLayer(weights.layer)) return state;
  const LayerExperts& experts = assign.plan.experts.layers[weights.layer];
  state.units = experts.UnitsOf(assign.plan.spec.StageRankOf(at_));
  CHECK_EQ(state.units.size(), state.slots.size()) << "layer " << weights.layer;
  return state;
}

absl::Status Model::ReceiveFromStageBefore(StepContext& ctx) {
  if (ctx.tokens() == 0) return absl::OkStatus();
  ctx.meter.Enter(Phase::kCollective);
  const int peer = parts_.assign.plan.spec.RankOf({at_.pp - 1, at_.dp, at_.tp});
  return ReceiveActivations(ctx, peer, ctx.Hidden());
}

absl::Status Model::SendToStageAfter(StepContext& ctx) {
  if (ctx.tokens() == 0) return absl::OkStatus();
  SettleResidual(ctx);
  ctx.meter.Enter(Phase::kCollective);
  const int peer = parts_.assign.plan.spec.RankOf({at_.pp + 1, at_.dp, at_.tp});
  return SendActivations(ctx, peer, ctx.Hidden());
}

absl::Status Model::Begin(StepContext& ctx) {
  if (!first_stage_) return ReceiveFromStageBefore(ctx);
  if (ctx.tokens() == 0) return absl::OkStatus();
  const PackedMatrix& table = parts_.weights.embedding;
  Embed(table, parts_.weights.vocab_begin, ctx.batch.ids(), ctx.Hidden());
  ctx.meter.AddWeightBytes(ctx.tokens() * table.inputs() *
                           static_cast<int64_t>(DtypeBytes(table.dtype())));
  return SumOverTp(ctx, ctx.Hidden(), "embedding", -1);
}

absl::Status Model::End(StepContext& ctx, LogitsSink sink) {
  shared_tokens_.clear();
  if (last_stage_) {
    RETURN_IF_ERROR(RunCpuHead(ctx, parts_.weights, sink, ctx.result.tokens));
    for (const SampledToken& token : ctx.result.tokens) shared_tokens_.push_back(token.token);
  } else {
    RETURN_IF_ERROR(SendToStageAfter(ctx));
  }
  RETURN_IF_ERROR(ShareSampled(ctx, parts_.assign.plan.spec, parts_.assign.rank, shared_tokens_));
  if (!first_stage_) return absl::OkStatus();
  return NoteSampled(ctx, shared_tokens_, before_);
}

absl::Status Model::Forward(const StepPlan& plan, LogitsSink sink, StepResult& result) {
  meter_.Start();
  RETURN_IF_ERROR(batch_.Build(plan, first_stage_ ? &before_ : nullptr));
  StepContext ctx{parts_.assign.shape,
                  rope_frequencies_,
                  tp_,
                  parts_.fabric,
                  exchange_.get(),
                  parts_.pool,
                  batch_,
                  buffers_,
                  meter_,
                  result,
                  parts_.timeout};
  RETURN_IF_ERROR(Begin(ctx));
  for (LayerState& layer : layers_) {
    CpuBlocks blocks(ctx, layer);
    RETURN_IF_ERROR(layer_function_(blocks));
    ++parts_.progress;
  }
  RETURN_IF_ERROR(End(ctx, sink));
  if (exchange_ != nullptr) result.exchange = exchange_->TakeStats();
  meter_.Finish(result);
  return absl::OkStatus();
}

}  // namespace conclave
