#include "worker/model/model.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/embedding/embedding.h"
#include "kernels/rope/rope.h"

namespace conclave {
namespace {

RopeOptions RopeOptionsOf(const ModelShape& shape) {
  RopeOptions options;
  options.head_dim = shape.head_dim;
  options.theta = shape.rope.theta;
  options.llama3 = shape.rope.kind == RopeShape::Kind::kLlama3;
  options.factor = shape.rope.factor;
  options.low_freq_factor = shape.rope.low_freq_factor;
  options.high_freq_factor = shape.rope.high_freq_factor;
  options.original_context_tokens = shape.rope.original_context_tokens;
  return options;
}

FabricGroup TpGroup(const ParallelSpec& spec, GridPosition at) {
  FabricGroup group;
  for (int t = 0; t < spec.tp; ++t) group.ranks.push_back(spec.RankOf({at.pp, at.dp, t}));
  group.index = at.tp;
  return group;
}

absl::Span<uint8_t> BytesOf(Rows rows) {
  return {reinterpret_cast<uint8_t*>(rows.data),
          static_cast<size_t>(rows.rows * rows.cols) * sizeof(float)};
}

}  // namespace

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
    const MoeExchangeOptions options = {assign.plan.exchange, assign.plan.spec, at_,
                                        assign.shape.hidden,  assign.shape.moe.top_k,
                                        parts.timeout};
    exchange_ = std::make_unique<MoeExchange>(parts.fabric, assign.plan.experts, options);
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
  RecvBuffer recv = {peer, BytesOf(ctx.Hidden()), 0};
  RETURN_IF_ERROR(ctx.fabric.Exchange({}, {&recv, 1}, ctx.Op("stage_activations", -1)));
  if (recv.received == recv.bytes.size()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("stage_activations: rank ", peer, " sent ",
                                          recv.received, " bytes, expected ", recv.bytes.size()));
}

absl::Status Model::SendToStageAfter(StepContext& ctx) {
  if (ctx.tokens() == 0) return absl::OkStatus();
  SettleResidual(ctx);
  ctx.meter.Enter(Phase::kCollective);
  const int peer = parts_.assign.plan.spec.RankOf({at_.pp + 1, at_.dp, at_.tp});
  const SendBuffer send = {peer, BytesOf(ctx.Hidden())};
  return ctx.fabric.Exchange({&send, 1}, {}, ctx.Op("stage_activations", -1));
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
    RETURN_IF_ERROR(RunHead(ctx, parts_.weights, sink, ctx.result.tokens));
    for (const SampledToken& token : ctx.result.tokens) shared_tokens_.push_back(token.token);
  } else {
    RETURN_IF_ERROR(SendToStageAfter(ctx));
  }
  RETURN_IF_ERROR(ShareSampled(ctx, parts_.assign.plan.spec, parts_.assign.rank, shared_tokens_));
  if (!first_stage_) return absl::OkStatus();
  before_.clear();
  size_t next = 0;
  for (const HeadRow& row : ctx.batch.head_rows()) {
    if (!row.sample) continue;
    const int32_t token = shared_tokens_[next++];
    if (token < 0 || token >= ctx.shape.vocab) {
      return absl::InternalError(
          absl::StrCat("sampled token ", token, " is outside the vocabulary"));
    }
    before_[ctx.batch.plan().batch[row.sequence].request] = token;
  }
  return absl::OkStatus();
}

absl::Status Model::Forward(const StepPlan& plan, LogitsSink sink, StepResult& result) {
  meter_.Start();
  RETURN_IF_ERROR(batch_.Build(plan, first_stage_ ? &before_ : nullptr));
  StepContext ctx{parts_.assign.shape, rope_frequencies_, tp_,      parts_.fabric,
                  exchange_.get(),     parts_.pool,       batch_,   buffers_,
                  meter_,              result,            parts_.timeout};
  RETURN_IF_ERROR(Begin(ctx));
  for (LayerState& layer : layers_) {
    RETURN_IF_ERROR(layer_function_(ctx, layer));
    ++parts_.progress;
  }
  RETURN_IF_ERROR(End(ctx, sink));
  if (exchange_ != nullptr) result.exchange = exchange_->TakeStats();
  meter_.Finish(result);
  return absl::OkStatus();
}

}  // namespace conclave
