// ExactModel: the steps of model.cc by the exact kernels. A step runs when it is collected; what
// peers need goes through host memory.
#include <cmath>
#include <deque>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "comm/base/reduction.h"
#include "comm/base/status.h"
#include "comm/fabric/moe_exchange.h"
#include "glog/logging.h"
#include "kernels/exact/exact.h"
#include "worker/model/cuda/device_model.h"
#include "worker/model/cuda/exact_blocks.h"
#include "worker/model/head.h"
#include "worker/model/home_combine.h"
#include "worker/model/model_table.h"
#include "worker/model/stage.h"

namespace conclave {
namespace {

class ExactModel : public DeviceModel {
 public:
  explicit ExactModel(const DeviceModelParts& parts);
  absl::Status Init();

  absl::Status Submit(const StepPlan& plan) override {
    submitted_.push_back(plan);
    return absl::OkStatus();
  }
  bool Done() override { return true; }
  absl::Status Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) override;

 private:
  absl::StatusOr<ExactBatch> SendBatch();
  absl::Status Begin(ExactStep& step);
  absl::Status RunLayers(ExactStep& step);
  absl::Status End(ExactStep& step, LogitsSink sink);
  absl::Status Head(ExactStep& step, LogitsSink sink);
  absl::Status KeepSampled(ExactStep& step);

  DeviceModelParts parts_;
  const GridPosition at_;
  const bool first_stage_;
  const bool last_stage_;
  const FabricGroup tp_;
  const std::vector<float> rope_frequencies_;
  const LayerFunction layer_function_;
  std::vector<std::vector<ExpertUnit>> units_;  // of each layer of the stage
  std::unique_ptr<MoeExchange> exchange_;       // null in a dense model
  CudaStreamOwner stream_;
  ExactBuffers buffers_;
  StepBatch batch_;
  StepBuffers host_buffers_;
  StepMeter meter_;
  SampledBefore before_;
  std::vector<int32_t> shared_tokens_;
  std::vector<float> cosine_, sine_;
  std::deque<StepPlan> submitted_;
};

ExactModel::ExactModel(const DeviceModelParts& parts)
    : parts_(parts),
      at_(parts.assign.plan.spec.PositionOf(parts.assign.rank)),
      first_stage_(at_.pp == 0),
      last_stage_(at_.pp == parts.assign.plan.spec.pp - 1),
      tp_(TpGroup(parts.assign.plan.spec, at_)),
      rope_frequencies_(RopeFrequencies(RopeOptionsOf(parts.assign.shape))),
      layer_function_(LayerOf(parts.assign.shape.architecture)) {
  const Assign& assign = parts.assign;
  if (assign.shape.IsMoe()) {
    exchange_ = std::make_unique<MoeExchange>(
        parts.fabric, assign.plan.experts, ExchangeOptionsOf(assign, parts.nodes, parts.timeout));
  }
  for (const DeviceLayer& layer : parts.weights.layers) {
    units_.emplace_back();
    if (!assign.shape.IsMoeLayer(layer.layer)) continue;
    units_.back() =
        assign.plan.experts.layers[layer.layer].UnitsOf(assign.plan.spec.StageRankOf(at_));
  }
}

absl::Status ExactModel::Init() {
  ASSIGN_OR_RETURN(stream_, CudaStreamOwner::Create());
  return absl::OkStatus();
}

absl::StatusOr<ExactBatch> ExactModel::SendBatch() {
  const CudaStream stream = stream_.get();
  const PagedBatch paged = batch_.paged();
  const int half = parts_.assign.shape.head_dim / 2;
  cosine_.resize(static_cast<size_t>(batch_.tokens()) * half);
  sine_.resize(cosine_.size());
  for (int t = 0; t < batch_.tokens(); ++t) {
    const float position = static_cast<float>(batch_.positions()[t]);
    for (int i = 0; i < half; ++i) {
      const double angle = static_cast<double>(rope_frequencies_[i] * position);
      cosine_[t * half + i] = static_cast<float>(std::cos(angle));
      sine_[t * half + i] = static_cast<float>(std::sin(angle));
    }
  }
  ExactBatch batch;
  ASSIGN_OR_RETURN(batch.ids, buffers_.ids.Ints(batch_.ids(), stream));
  ASSIGN_OR_RETURN(batch.first_token, buffers_.first_token.Ints(paged.first_token, stream));
  ASSIGN_OR_RETURN(batch.position, buffers_.position.Ints(paged.position, stream));
  ASSIGN_OR_RETURN(batch.first_page, buffers_.first_page.Ints(paged.first_page, stream));
  ASSIGN_OR_RETURN(batch.page_table, buffers_.page_table.Ints(paged.page_table, stream));
  ASSIGN_OR_RETURN(batch.cosine, buffers_.cosine.Floats(cosine_, stream));
  ASSIGN_OR_RETURN(batch.sine, buffers_.sine.Floats(sine_, stream));
  return batch;
}

absl::Status ExactModel::Begin(ExactStep& step) {
  StepContext& ctx = step.ctx;
  ASSIGN_OR_RETURN(step.hidden, buffers_.hidden.Rows(ctx.tokens(), ctx.shape.hidden));
  if (ctx.tokens() == 0) return absl::OkStatus();
  if (first_stage_) {
    ExactEmbedArgs args;
    args.table = parts_.weights.embedding;
    args.vocab_begin = parts_.weights.vocab_begin;
    args.ids = step.batch.ids;
    args.tokens = ctx.tokens();
    args.out = step.hidden.data;
    args.out_stride = step.hidden.stride;
    RETURN_IF_ERROR(ExactEmbed(args, step.stream));
    return SumOverTp(step, step.hidden, "embedding", -1);
  }
  ctx.meter.Enter(Phase::kCollective);
  const int peer = parts_.assign.plan.spec.RankOf({at_.pp - 1, at_.dp, at_.tp});
  const Rows host = ctx.Hidden();
  RETURN_IF_ERROR(ReceiveActivations(ctx, peer, host));
  return StoreRows(step, host.data, step.hidden);
}

absl::Status ExactModel::RunLayers(ExactStep& step) {
  for (size_t i = 0; i < parts_.weights.layers.size(); ++i) {
    ExactBlocks blocks(step,
                       {parts_.weights.layers[i], parts_.kv.Layer(static_cast<int>(i)), units_[i]});
    RETURN_IF_ERROR(layer_function_(blocks));
    ++parts_.progress;
  }
  return absl::OkStatus();
}

absl::Status ExactModel::Head(ExactStep& step, LogitsSink sink) {
  StepContext& ctx = step.ctx;
  if (ctx.batch.head_rows().empty()) return absl::OkStatus();
  ctx.meter.Enter(Phase::kHead);
  ASSIGN_OR_RETURN(const DeviceRows normed, NormResidual(step, parts_.weights.final_norm));
  const auto compute = [&](absl::Span<const int32_t> tokens, Rows slice) -> absl::Status {
    const int64_t rows = static_cast<int64_t>(tokens.size());
    ASSIGN_OR_RETURN(const int32_t* index, buffers_.head_tokens.Ints(tokens, step.stream));
    ASSIGN_OR_RETURN(const DeviceRows chosen, buffers_.head_rows.Rows(rows, ctx.shape.hidden));
    ASSIGN_OR_RETURN(const DeviceRows logits, buffers_.logits.Rows(rows, slice.cols));
    const ExactGatherArgs gather = {
        normed.data, normed.stride, index, {chosen.data, rows, chosen.cols, chosen.stride}};
    RETURN_IF_ERROR(ExactGatherRows(gather, step.stream));
    RETURN_IF_ERROR(ProjectRows(step, {chosen, parts_.weights.head, kReductionSlices, logits}));
    // Host rows may be wider: the slices of other ranks stand beside.
    std::vector<float> dense(static_cast<size_t>(rows * slice.cols));
    RETURN_IF_ERROR(FetchRows(step, logits, dense.data()));
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(dense.data() + r * slice.cols, slice.cols, slice.row(r));
    }
    return absl::OkStatus();
  };
  return RunHead(ctx, {parts_.weights.vocab_begin, parts_.weights.vocab_end, compute}, sink,
                 ctx.result.tokens);
}

absl::Status ExactModel::KeepSampled(ExactStep& step) {
  StepContext& ctx = step.ctx;
  RETURN_IF_ERROR(ShareSampled(ctx, parts_.assign.plan.spec, parts_.assign.rank, shared_tokens_));
  if (!first_stage_) return absl::OkStatus();
  return NoteSampled(ctx, shared_tokens_, before_);
}

absl::Status ExactModel::End(ExactStep& step, LogitsSink sink) {
  StepContext& ctx = step.ctx;
  shared_tokens_.clear();
  if (last_stage_) {
    RETURN_IF_ERROR(Head(step, sink));
    for (const SampledToken& token : ctx.result.tokens) shared_tokens_.push_back(token.token);
  } else if (ctx.tokens() > 0) {
    RETURN_IF_ERROR(SettleResidual(step));
    ctx.meter.Enter(Phase::kCollective);
    const Rows host = ctx.Hidden();
    RETURN_IF_ERROR(FetchRows(step, step.hidden, host.data));
    const int peer = parts_.assign.plan.spec.RankOf({at_.pp + 1, at_.dp, at_.tp});
    RETURN_IF_ERROR(SendActivations(ctx, peer, host));
  }
  return KeepSampled(step);
}

absl::Status ExactModel::Collect(absl::FunctionRef<void(Logits)> sink, StepResult& result) {
  const StepPlan plan = std::move(submitted_.front());
  submitted_.pop_front();
  meter_.Start();
  RETURN_IF_ERROR(batch_.Build(plan, first_stage_ ? &before_ : nullptr));
  StepContext ctx{parts_.assign.shape,
                  rope_frequencies_,
                  tp_,
                  parts_.fabric,
                  exchange_.get(),
                  parts_.pool,
                  batch_,
                  host_buffers_,
                  meter_,
                  result,
                  parts_.timeout};
  ASSIGN_OR_RETURN(const ExactBatch batch, SendBatch());
  ExactStep step{ctx, buffers_, batch, stream_.get(), {}, false};
  RETURN_IF_ERROR(Begin(step));
  RETURN_IF_ERROR(RunLayers(step));
  RETURN_IF_ERROR(End(step, sink));
  RETURN_IF_ERROR(stream_.Synchronize());
  if (exchange_ != nullptr) result.exchange = exchange_->TakeStats();
  meter_.Finish(result);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DeviceModel>> CreateExactModel(const DeviceModelParts& parts) {
  auto model = std::make_unique<ExactModel>(parts);
  RETURN_IF_ERROR(model->Init());
  return model;
}

}  // namespace conclave
