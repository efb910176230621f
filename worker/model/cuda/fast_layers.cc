#include "worker/model/cuda/fast_layers.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/flash_attention/flash_attention.h"
#include "kernels/qkv_post/gpu_kv.h"
#include "kernels/qkv_post/rope_table.h"
#include "kernels/slab_rows/slab_rows.h"
#include "kernels/token_embed/token_embed.h"
#include "kernels/token_sampler/token_sampler.h"
#include "kernels/weight_pack/quant_tiles.h"
#include "worker/model/cuda/fast_blocks.h"
#include "worker/model/cuda/one_token.h"
#include "worker/model/stage.h"

namespace conclave {
namespace {

// Measured on an H200 (kernels/README.md): up to here streaming beats tiles.
constexpr int32_t kStreamQkvTokens = 4;
constexpr int32_t kStreamOutputTokens = 32;
constexpr int32_t kStreamFfnTokens = 8;
constexpr int32_t kStreamExpertsTokens = 4;
constexpr int32_t kStreamHeadRows = 8;
// Every block computing the norm costs less than a kernel for it.
constexpr int32_t kFuseNormTokens = 2;

constexpr int32_t kTileTokensMax = 16384;
constexpr int32_t kHeadRowsMax = 256;
constexpr int32_t kRopePositionsMax = 1 << 20;

}  // namespace

double FastStep::TouchedMatrices(const DeviceLayer& layer) const {
  if (layer.router.data == nullptr) return 1;
  const double experts = layer.gate_up.matrices;
  const double missed = 1 - parts.shape.moe.top_k / experts;
  return experts * (1 - std::pow(missed, static_cast<double>(batch.tokens)));
}

bool FastLayersRun(const ModelShape& shape) {
  return shape.hidden % 8 == 0 && shape.hidden <= 8192 && shape.head_dim % 8 == 0 &&
         shape.head_dim <= kGpuHeadDimMax && shape.ffn % 8 == 0 && shape.moe.ffn % 8 == 0 &&
         shape.moe.experts <= kRouteExpertsMax && shape.moe.top_k <= kRouteTopKMax &&
         shape.heads / shape.kv_heads <= kFlashGroupMax;
}

class FastLayers::Impl {
 public:
  explicit Impl(const FastLayersParts& parts)
      : parts_(parts),
        widths_(parts.shape, parts.weights),
        scratch_(widths_),
        quantised_(IsQuantised(parts.weights.layers[0].qkv.format)),
        layer_function_(LayerOf(parts.shape.architecture)) {}

  absl::Status Init();
  absl::Status Body(const FastBatch& batch);
  absl::Status Head(const FastBatch& batch, int32_t first, int32_t count);
  int64_t AlwaysReadBytes() const;
  bool UsesOneToken(const FastBatch& batch) const;

  FastLayersParts parts_;
  ScratchWidths widths_;
  FastScratch scratch_;
  const bool quantised_;  // then all products stream weights
  const LayerFunction layer_function_;
  int32_t sm_count_ = 132;
  OneToken one_token_;
  DeviceBuffer rope_, last_tokens_, logprobs_, row_tokens_;

 private:
  FastStep MakeStep(const FastBatch& batch);
  OpCost StepCost(const FastStep& step) const;
  absl::Status Embed(FastStep& step);
  absl::Status Logits(FastStep& step, int32_t first, int32_t count);
  absl::Status Sample(FastStep& step, int32_t first, int32_t count);
  absl::Status FillRope();

  int residual_ = 0;    // where the last Body left the stream
  PendingSum pending_;  // and what is still to be added
};

absl::Status FastLayers::Impl::FillRope() {
  const ModelShape& shape = parts_.shape;
  const std::vector<float> frequencies = RopeFrequencies(RopeOptionsOf(shape));
  ASSIGN_OR_RETURN(const DeviceBuffer device,
                   DeviceBuffer::Create(static_cast<int64_t>(frequencies.size()) * 4));
  RETURN_IF_ERROR(CopyToDevice(device.data(), frequencies.data(), device.bytes(), parts_.stream));
  RopeTableArgs args;
  args.frequencies = device.as<float>();
  args.positions = std::min(shape.context_tokens, kRopePositionsMax);
  args.head_dim = shape.head_dim;
  ASSIGN_OR_RETURN(rope_, DeviceBuffer::Create(int64_t{4} * args.positions * shape.head_dim));
  args.table = rope_.as<float>();
  args.stream = parts_.stream;
  RETURN_IF_ERROR(FillRopeTable(args));
  return SynchronizeCudaDevice();
}

absl::Status FastLayers::Impl::Init() {
  ASSIGN_OR_RETURN(sm_count_, CurrentDeviceProcessors());
  ASSIGN_OR_RETURN(last_tokens_, DeviceBuffer::Create(int64_t{4} * parts_.sample_slots));
  ASSIGN_OR_RETURN(logprobs_, DeviceBuffer::Create(int64_t{4} * parts_.step_rows));
  ASSIGN_OR_RETURN(row_tokens_, DeviceBuffer::Create(int64_t{4} * kHeadRowsMax));
  RETURN_IF_ERROR(FillDevice(last_tokens_.data(), 0, last_tokens_.bytes(), parts_.stream));
  RETURN_IF_ERROR(FillRope());
  ASSIGN_OR_RETURN(one_token_, OneToken::Create(parts_.shape, parts_.weights, parts_.kv));
  return scratch_.Reserve({64, 64, 1});
}

FastStep FastLayers::Impl::MakeStep(const FastBatch& batch) {
  FastStep step{parts_, scratch_, batch};
  step.rope_table = rope_.as<float>();
  step.sm_count = sm_count_;
  const FastTuning& tuning = parts_.tuning;
  const auto streams = [&](int32_t tokens_max) {
    return quantised_ || (tuning.stream && batch.tokens <= tokens_max);
  };
  step.overlaps = tuning.overlap && !parts_.trace.on();
  step.streams_qkv = streams(kStreamQkvTokens);
  step.streams_output = streams(kStreamOutputTokens);
  step.streams_ffn = streams(kStreamFfnTokens);
  step.streams_experts = streams(kStreamExpertsTokens);
  step.fuses_attention = tuning.fusion;
  step.fuses_gate = tuning.fusion;
  // The norm is a prologue of streaming products only.
  step.fuses_norm = tuning.fusion && step.streams_qkv && batch.tokens <= kFuseNormTokens;
  step.joins_splits = step.fuses_norm && step.streams_output;
  return step;
}

bool FastLayers::Impl::UsesOneToken(const FastBatch& batch) const {
  return parts_.tuning.token_step && one_token_.ready() && batch.decodes_only &&
         batch.tokens == 1 && batch.rows == 1;
}

OpCost FastLayers::Impl::StepCost(const FastStep& step) const {
  OpCost cost;
  for (const DeviceLayer& layer : parts_.weights.layers) {
    const double experts = layer.router.data != nullptr ? parts_.shape.moe.top_k : 1;
    for (const OpCost& part :
         {ProductCost(layer.qkv, 1, 1), ProductCost(layer.output, 1, 1),
          ProductCost(layer.gate_up, 1, experts), ProductCost(layer.down, 1, experts)}) {
      cost.bytes += part.bytes;
      cost.flops += part.flops;
    }
  }
  return cost;
}

absl::Status FastLayers::Impl::Embed(FastStep& step) {
  TokenEmbedArgs args;
  args.table = parts_.weights.embedding;
  args.tokens = step.batch.tokens;
  args.token_id = step.batch.inputs.token_id;
  args.token_source = step.batch.inputs.token_source;
  args.last_tokens = last_tokens_.as<int32_t>();
  args.residual = step.Residual();
  parts_.trace.Enter("embed", -1, {6.0 * args.tokens * parts_.shape.hidden, 0}, step.stream());
  const ProductLaunch launch = NextLaunch(step);
  return TokenEmbed(args, launch.stream, launch.dependent);
}

absl::Status FastLayers::Impl::Body(const FastBatch& batch) {
  FastStep step = MakeStep(batch);
  RETURN_IF_ERROR(Embed(step));
  if (UsesOneToken(batch)) {
    parts_.trace.Enter("token_step", -1, StepCost(step), step.stream());
    RETURN_IF_ERROR(one_token_.Run({step.Residual(), batch.inputs.position, batch.inputs.page_table,
                                    step.rope_table, step.stream()}));
    residual_ = step.residual;
    pending_ = PendingSum();
    return absl::OkStatus();
  }
  const std::vector<DeviceLayer>& layers = parts_.weights.layers;
  for (size_t i = 0; i < layers.size(); ++i) {
    const DeviceLayer* next = i + 1 < layers.size() ? &layers[i + 1] : nullptr;
    FastBlocks blocks(step, {layers[i], parts_.kv.Layer(static_cast<int>(i)), next});
    RETURN_IF_ERROR(layer_function_(blocks));
  }
  // Where every token of a small batch is a row of the head, the head's product takes the norm.
  if (!(step.fuses_norm && batch.rows == batch.tokens)) {
    RETURN_IF_ERROR(TakePending(step, parts_.weights.final_norm, -1));
  }
  residual_ = step.residual;
  pending_ = step.pending;
  return absl::OkStatus();
}

absl::Status FastLayers::Impl::Logits(FastStep& step, int32_t first, int32_t count) {
  const WeightView& head = parts_.weights.head;
  const bool all = count == step.batch.tokens && step.batch.rows == step.batch.tokens;
  parts_.trace.Enter("lm_head", -1, ProductCost(head, count, 1), step.stream());
  if (all && step.fuses_norm) {
    return NormProduct(step, {head, parts_.weights.final_norm, 1, scratch_.logits(), widths_.vocab})
        .status();
  }
  const void* rows = scratch_.normed();
  if (!all) {
    GatherBf16Args gather;
    gather.x = scratch_.normed();
    gather.index = step.batch.inputs.row_token + first;
    gather.rows = count;
    gather.columns = widths_.hidden;
    gather.out = scratch_.head_rows();
    const ProductLaunch launch = NextLaunch(step);
    RETURN_IF_ERROR(GatherBf16(gather, launch.stream, launch.dependent));
    rows = scratch_.head_rows();
  }
  const bool streams = parts_.tuning.stream && count <= kStreamHeadRows;
  if (streams || IsQuantised(head.format)) {
    SbiArgs args;
    args.weights = head;
    args.tokens = count;
    args.rows = {rows, widths_.hidden};
    args.out = scratch_.logits();
    args.out_stride = widths_.vocab;
    return StreamProduct(args, 1, NextLaunch(step)).status();
  }
  TileGemmArgs args;
  args.weights = head;
  args.x = rows;
  args.x_stride = widths_.hidden;
  args.rows = count;
  args.epilogue = TileEpilogue::kFp32;
  args.out = scratch_.logits();
  args.out_stride = widths_.vocab;
  return TileProduct(args, NextLaunch(step));
}

absl::Status FastLayers::Impl::Sample(FastStep& step, int32_t first, int32_t count) {
  const StepInputsView& in = step.batch.inputs;
  TokenSamplerArgs args;
  args.rows = count;
  args.vocab = parts_.shape.vocab;
  args.logits = scratch_.logits();
  args.logits_stride = widths_.vocab;
  args.temperature = in.temperature + first;
  args.top_k = in.top_k + first;
  args.top_p = in.top_p + first;
  args.min_p = in.min_p + first;
  args.seed = in.seed + first;
  args.position = in.row_position + first;
  args.slot = in.row_slot + first;
  args.last_tokens = last_tokens_.as<int32_t>();
  args.tokens = row_tokens_.as<int32_t>();
  args.logprobs = logprobs_.as<float>() + step.batch.first_row + first;
  args.all_greedy = step.batch.all_greedy;
  args.scratch = scratch_.sampler();
  args.scratch_rows = scratch_.sampler_rows();
  parts_.trace.Enter("sample", -1, {4.0 * count * parts_.shape.vocab, 0}, step.stream());
  const ProductLaunch launch = NextLaunch(step);
  return TokenSampler(args, launch.stream, launch.dependent);
}

absl::Status FastLayers::Impl::Head(const FastBatch& batch, int32_t first, int32_t count) {
  if (count == 0) return absl::OkStatus();
  FastStep step = MakeStep(batch);
  step.residual = residual_;
  step.pending = pending_;
  step.first_launch = false;
  RETURN_IF_ERROR(Logits(step, first, count));
  return Sample(step, first, count);
}

int64_t FastLayers::Impl::AlwaysReadBytes() const {
  int64_t bytes = parts_.weights.head.matrix_bytes;
  for (const DeviceLayer& layer : parts_.weights.layers) {
    bytes += layer.qkv.matrix_bytes + layer.output.matrix_bytes + layer.router.matrix_bytes;
    if (layer.router.data == nullptr) bytes += layer.gate_up.matrix_bytes + layer.down.matrix_bytes;
  }
  return bytes;
}

// ---- the class around it

FastLayers::FastLayers(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
FastLayers::~FastLayers() = default;

absl::StatusOr<std::unique_ptr<FastLayers>> FastLayers::Create(const FastLayersParts& parts) {
  auto impl = std::make_unique<Impl>(parts);
  RETURN_IF_ERROR(impl->Init());
  return std::unique_ptr<FastLayers>(new FastLayers(std::move(impl)));
}

int32_t FastLayers::tokens_max() const {
  return impl_->quantised_ ? kSbiTokensMax : kTileTokensMax;
}
int32_t FastLayers::rows_max() const { return impl_->quantised_ ? kSbiTokensMax : kHeadRowsMax; }
absl::Status FastLayers::Reserve(const ScratchSize& size) { return impl_->scratch_.Reserve(size); }
int FastLayers::generation() const { return impl_->scratch_.generation(); }
absl::Status FastLayers::Body(const FastBatch& batch) { return impl_->Body(batch); }
absl::Status FastLayers::Head(const FastBatch& batch, int32_t first, int32_t count) {
  return impl_->Head(batch, first, count);
}
const float* FastLayers::LogitsRow(int32_t i) const {
  return impl_->scratch_.logits() + i * impl_->widths_.vocab;
}
const int32_t* FastLayers::sampled_tokens() const { return impl_->last_tokens_.as<int32_t>(); }
const float* FastLayers::sampled_logprobs() const { return impl_->logprobs_.as<float>(); }
const int32_t* FastLayers::loads() const { return impl_->scratch_.loads(); }
bool FastLayers::UsesOneToken(const FastBatch& batch) const { return impl_->UsesOneToken(batch); }
const int32_t* FastLayers::chosen() const { return impl_->one_token_.chosen(); }
int64_t FastLayers::chosen_bytes() const {
  return int64_t{4} * impl_->widths_.expert_layers * impl_->widths_.top_k;
}
int64_t FastLayers::loads_bytes(int parts) const {
  return int64_t{4} * parts * impl_->widths_.expert_layers * (impl_->widths_.slots + 1);
}
int64_t FastLayers::always_read_bytes() const { return impl_->AlwaysReadBytes(); }

}  // namespace conclave
