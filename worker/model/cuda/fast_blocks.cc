#include "worker/model/cuda/fast_blocks.h"

#include <cmath>

#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/decode_attention/decode_attention.h"
#include "kernels/flash_attention/flash_attention.h"
#include "kernels/moe_route/moe_route.h"
#include "kernels/qkv_post/qkv_post.h"
#include "kernels/slab_rows/slab_rows.h"

namespace conclave {

ProductLaunch NextLaunch(FastStep& step) {
  const ProductLaunch launch = {step.sm_count, step.stream(), step.overlaps && !step.first_launch};
  step.first_launch = false;
  return launch;
}

absl::Status TakePending(FastStep& step, const float* weight, int layer) {
  const FastLayersParts& parts = step.parts;
  const int64_t hidden = parts.shape.hidden;
  AddNormArgs args;
  args.tokens = step.batch.tokens;
  args.hidden = static_cast<int32_t>(hidden);
  args.residual_in = step.Residual();
  args.residual_out = step.Residual();
  args.pending = step.pending;
  args.norm_weight = weight;
  args.epsilon = parts.shape.norm_epsilon;
  args.normed = weight != nullptr ? step.scratch.normed() : nullptr;
  const double values = static_cast<double>(args.tokens) * hidden;
  parts.trace.Enter("add_norm", layer, {values * (10 + 4.0 * step.pending.count), 0},
                    step.stream());
  step.pending = PendingSum();
  const ProductLaunch launch = NextLaunch(step);
  return AddNorm(args, launch.stream, launch.dependent);
}

// The residual's norm in front of a product; afterwards the residual is in the other buffer.
static void FuseNorm(FastStep& step, const float* weight, SbiArgs& args) {
  const PendingSum& pending = step.pending;
  args.prologue = SbiPrologue::kNorm;
  args.norm.residual_in = step.Residual();
  args.norm.residual_out = step.OtherResidual();
  args.norm.norm_weight = weight;
  args.norm.epsilon = step.parts.shape.norm_epsilon;
  args.norm.partials = static_cast<const float*>(pending.data);
  args.norm.pending = pending.kind == PendingKind::kNone ? 0 : pending.count;
  args.norm.slab_stride = pending.slab_stride;
  args.norm.row_stride = pending.row_stride;
  args.norm.gate_weights = pending.gate_weights;
  step.residual = 1 - step.residual;
  step.pending = PendingSum();
}

absl::StatusOr<int32_t> NormProduct(FastStep& step, const NormProductArgs& args) {
  SbiArgs sbi;
  sbi.weights = args.weights;
  sbi.tokens = step.batch.tokens;
  sbi.out = args.out;
  sbi.out_stride = args.out_stride;
  sbi.slab_stride = args.out_stride * step.batch.tokens;
  if (!step.fuses_norm) {
    sbi.prologue = SbiPrologue::kRows;
    sbi.rows = {step.scratch.normed(), step.scratch.widths().hidden};
    return StreamProduct(sbi, args.splits_max, NextLaunch(step));
  }
  FuseNorm(step, args.norm_weight, sbi);
  return StreamProduct(sbi, args.splits_max, NextLaunch(step));
}

namespace {

GpuBatch BatchOf(const FastBatch& batch) {
  GpuBatch gpu;
  gpu.first_token = batch.inputs.first_token;
  gpu.position = batch.inputs.position;
  gpu.first_page = batch.inputs.first_page;
  gpu.page_table = batch.inputs.page_table;
  gpu.sequences = batch.sequences;
  gpu.tokens = batch.tokens;
  return gpu;
}

GpuKvLayer CacheOf(const KvLayer& cache) {
  return {cache.data, cache.pages, cache.page_tokens, cache.kv_heads, cache.head_dim};
}

QkNormWeights NormOf(QkNorm norm, const FastStep& step, const DeviceLayer& weights) {
  const GpuQkNorm kinds[] = {GpuQkNorm::kNone, GpuQkNorm::kPerHead, GpuQkNorm::kFullWidth};
  return {kinds[static_cast<int>(norm)], weights.q_norm, weights.k_norm,
          step.parts.shape.norm_epsilon};
}

float ScaleOf(const ModelShape& shape) {
  return static_cast<float>(1.0 / std::sqrt(static_cast<double>(shape.head_dim)));
}

// Bytes of keys and values that attention reads at most.
double CacheBytes(const FastStep& step) {
  const ModelShape& shape = step.parts.shape;
  return 4.0 * shape.kv_heads * shape.head_dim * step.batch.context_tokens * step.batch.sequences;
}

// 4 * head_dim flops for each (token, head) and position it sees; half of them in a prompt.
double AttentionFlops(const FastStep& step) {
  const ModelShape& shape = step.parts.shape;
  const double share = step.batch.decodes_only ? 1.0 : 0.5;
  return share * 4 * shape.head_dim * shape.heads * static_cast<double>(step.batch.tokens) *
         step.batch.context_tokens;
}

PendingSum Slabs(const float* data, int32_t count, int64_t slab_stride, int64_t row_stride) {
  PendingSum pending;
  pending.kind = PendingKind::kSlabs;
  pending.data = data;
  pending.count = count;
  pending.slab_stride = slab_stride;
  pending.row_stride = row_stride;
  return pending;
}

}  // namespace

// ---- attention

// Slabs of a small batch's qkv product become bf16 rows, as prompts' attention takes them.
absl::Status FastBlocks::RowsOfSlabs(int32_t slabs) {
  const ScratchWidths& widths = step_.scratch.widths();
  const int64_t tokens = step_.batch.tokens;
  const ProductLaunch launch = NextLaunch(step_);
  SumSlabsArgs args;
  args.slabs = step_.scratch.partials();
  args.count = slabs;
  args.slab_stride = tokens * widths.qkv;
  args.rows = tokens;
  args.columns = widths.qkv;
  args.row_stride = widths.qkv;
  args.out = step_.scratch.qkv();
  return SumSlabs(args, launch.stream, launch.dependent);
}

// Queries, keys and values of the batch: slabs in scratch's partials, whose count is returned, or
// 0 for bf16 rows in scratch's qkv.
absl::StatusOr<int32_t> FastBlocks::ProjectQkv() {
  const DeviceLayer& weights = layer_.weights;
  const int64_t width = step_.scratch.widths().qkv;
  OpTrace& trace = step_.parts.trace;
  if (!step_.fuses_norm) RETURN_IF_ERROR(TakePending(step_, weights.input_norm, weights.layer));
  trace.Enter("qkv", weights.layer, ProductCost(weights.qkv, step_.batch.tokens, 1),
              step_.stream());
  if (step_.streams_qkv) {
    return NormProduct(step_, {weights.qkv, weights.input_norm, kScratchSplitsMax,
                               step_.scratch.partials(), width});
  }
  TileGemmArgs args;
  args.weights = weights.qkv;
  args.x = step_.scratch.normed();
  args.x_stride = step_.scratch.widths().hidden;
  args.rows = step_.batch.tokens;
  args.epilogue = TileEpilogue::kBf16;
  args.out = step_.scratch.qkv();
  args.out_stride = width;
  RETURN_IF_ERROR(TileProduct(args, NextLaunch(step_)));
  return 0;
}

// One new token in each sequence: norm, rotation and cache in the same kernel. Returns the splits
// of the context that are left to join, or 0: the rows in scratch's attention are complete.
absl::StatusOr<int32_t> FastBlocks::AttendDecodes(QkNorm norm, int32_t slabs) {
  const ModelShape& model = shape();
  FastScratch& scratch = step_.scratch;
  DecodeAttentionShape cut;
  cut.context_max = step_.batch.context_tokens;
  cut.tokens = step_.batch.tokens;
  cut.heads = model.heads;
  cut.kv_heads = model.kv_heads;
  cut.head_dim = model.head_dim;
  cut.sm_count = step_.sm_count;
  ASSIGN_OR_RETURN(DecodeAttentionConfig config, ChooseDecodeAttentionConfig(cut));
  // Splits are joined by the o product only where it streams weights and can.
  if (!step_.joins_splits) config.combine = true;
  DecodeAttentionArgs args;
  args.batch = BatchOf(step_.batch);
  args.cache = CacheOf(layer_.cache);
  args.heads = model.heads;
  args.scale = ScaleOf(model);
  args.qkv.row_stride = scratch.widths().qkv;
  if (slabs > 0) {
    args.qkv.partials = scratch.partials();
    args.qkv.splits = slabs;
    args.qkv.slab_stride = step_.batch.tokens * scratch.widths().qkv;
  } else {
    args.qkv.rows = scratch.qkv();
  }
  args.norm = NormOf(norm, step_, layer_.weights);
  args.rope = step_.rope_table;
  args.splits = {scratch.split_o(), scratch.split_m(), scratch.split_l()};
  if (config.combine) {
    args.out = scratch.attention();
    args.out_stride = scratch.widths().attention;
  }
  if (step_.overlaps && step_.streams_output) {
    args.prefetch = layer_.weights.output.data;
    args.prefetch_bytes = layer_.weights.output.matrix_bytes;
  }
  const ProductLaunch launch = NextLaunch(step_);
  args.stream = launch.stream;
  args.dependent = launch.dependent;
  step_.parts.trace.Enter("decode_attention", layer_.weights.layer,
                          {CacheBytes(step_), AttentionFlops(step_)}, step_.stream());
  RETURN_IF_ERROR(DecodeAttention(args, config));
  return config.combine ? 0 : config.splits;
}

// Sequences of several new tokens, or of one beside them.
absl::Status FastBlocks::AttendPrompts(QkNorm norm) {
  const ModelShape& model = shape();
  FastScratch& scratch = step_.scratch;
  ProductLaunch launch = NextLaunch(step_);
  QkvPostArgs post;
  post.batch = BatchOf(step_.batch);
  post.cache = CacheOf(layer_.cache);
  post.heads = model.heads;
  post.qkv = scratch.qkv();
  post.qkv_stride = scratch.widths().qkv;
  post.q = scratch.qkv();
  post.q_stride = scratch.widths().qkv;
  post.norm = NormOf(norm, step_, layer_.weights);
  post.rope = step_.rope_table;
  post.stream = launch.stream;
  post.dependent = launch.dependent;
  step_.parts.trace.Enter("qkv_post", layer_.weights.layer,
                          {4.0 * step_.batch.tokens * scratch.widths().qkv, 0}, step_.stream());
  RETURN_IF_ERROR(QkvPost(post));
  launch = NextLaunch(step_);
  FlashAttentionArgs args;
  args.batch = post.batch;
  args.cache = post.cache;
  args.heads = model.heads;
  args.scale = ScaleOf(model);
  args.q = scratch.qkv();
  args.q_stride = scratch.widths().qkv;
  args.out = scratch.attention();
  args.out_stride = scratch.widths().attention;
  args.counter = scratch.flash_counter();
  args.sm_count = step_.sm_count;
  args.stream = launch.stream;
  args.dependent = launch.dependent;
  step_.parts.trace.Enter("flash_attention", layer_.weights.layer,
                          {CacheBytes(step_), AttentionFlops(step_)}, step_.stream());
  return FlashAttention(args);
}

absl::Status FastBlocks::ProjectOutput(int32_t splits) {
  const DeviceLayer& weights = layer_.weights;
  FastScratch& scratch = step_.scratch;
  const int64_t hidden = shape().hidden;
  const int32_t tokens = step_.batch.tokens;
  step_.parts.trace.Enter("o_proj", weights.layer, ProductCost(weights.output, tokens, 1),
                          step_.stream());
  if (!step_.streams_output) {
    TileGemmArgs args;
    args.weights = weights.output;
    args.x = scratch.attention();
    args.x_stride = scratch.widths().attention;
    args.rows = tokens;
    args.epilogue = TileEpilogue::kFp32Add;
    args.out = step_.Residual();
    args.out_stride = hidden;
    return TileProduct(args, NextLaunch(step_));
  }
  SbiArgs args;
  args.weights = weights.output;
  args.tokens = tokens;
  args.out = scratch.partials();
  args.out_stride = scratch.widths().hidden_padded;
  args.slab_stride = args.out_stride * tokens;
  if (splits > 0) {
    args.prologue = SbiPrologue::kAttention;
    args.attention = {scratch.split_o(), scratch.split_m(), scratch.split_l(), splits,
                      shape().heads};
  } else {
    args.rows = {scratch.attention(), scratch.widths().attention};
  }
  ASSIGN_OR_RETURN(const int32_t slabs, StreamProduct(args, kScratchSplitsMax, NextLaunch(step_)));
  step_.pending = Slabs(scratch.partials(), slabs, args.slab_stride, args.out_stride);
  return absl::OkStatus();
}

absl::Status FastBlocks::Attention(const AttentionChoices& choices) {
  ASSIGN_OR_RETURN(const int32_t slabs, ProjectQkv());
  int32_t splits = 0;
  if (step_.batch.decodes_only && step_.fuses_attention) {
    ASSIGN_OR_RETURN(splits, AttendDecodes(choices.qk_norm, slabs));
  } else {
    if (slabs > 0) RETURN_IF_ERROR(RowsOfSlabs(slabs));
    RETURN_IF_ERROR(AttendPrompts(choices.qk_norm));
  }
  return ProjectOutput(splits);
}

// ---- dense feed-forward

absl::Status FastBlocks::Dense() {
  const DeviceLayer& weights = layer_.weights;
  FastScratch& scratch = step_.scratch;
  OpTrace& trace = step_.parts.trace;
  const int32_t tokens = step_.batch.tokens;
  const bool fuses = step_.streams_ffn && step_.fuses_norm;
  if (!fuses) RETURN_IF_ERROR(TakePending(step_, weights.ffn_norm, weights.layer));
  trace.Enter("gate_up", weights.layer, ProductCost(weights.gate_up, tokens, 1), step_.stream());
  if (!step_.streams_ffn) {
    RETURN_IF_ERROR(TileFfn({tokens, nullptr, scratch.normed(), TileEpilogue::kFp32Add}));
    return absl::OkStatus();
  }
  return StreamFfn(SbiTable(), fuses);
}

// Gate, up and down of rows by the tensor cores; `out` as the epilogue of down says.
absl::Status FastBlocks::TileFfn(const TileFfnArgs& ffn) {
  const DeviceLayer& weights = layer_.weights;
  FastScratch& scratch = step_.scratch;
  TileGemmArgs args;
  args.weights = weights.gate_up;
  args.x = ffn.x;
  args.x_stride = scratch.widths().hidden;
  args.rows = ffn.rows;
  args.group_first = ffn.group_first;
  args.epilogue = TileEpilogue::kSwiGlu;
  args.out = scratch.inner();
  args.out_stride = scratch.widths().ffn;
  RETURN_IF_ERROR(TileProduct(args, NextLaunch(step_)));
  const bool grouped = ffn.group_first != nullptr;
  step_.parts.trace.Enter("down", weights.layer,
                          ProductCost(weights.down, ffn.rows, step_.TouchedMatrices(weights)),
                          step_.stream());
  args.weights = weights.down;
  args.x = scratch.inner();
  args.x_stride = scratch.widths().ffn;
  args.epilogue = ffn.down;
  args.out = grouped ? scratch.outer() : step_.Residual();
  args.out_stride = scratch.widths().hidden;
  return TileProduct(args, NextLaunch(step_));
}

// The same streaming weights; without a table a dense FFN.
absl::Status FastBlocks::StreamFfn(const SbiTable& table, bool fuses_norm) {
  const DeviceLayer& weights = layer_.weights;
  FastScratch& scratch = step_.scratch;
  const bool grouped = table.active_count != nullptr;
  SbiArgs args;
  args.kind = SbiKind::kGateUp;
  args.weights = weights.gate_up;
  args.tokens = step_.batch.tokens;
  args.table = table;
  args.hidden = scratch.inner();
  args.hidden_stride = scratch.widths().ffn;
  if (fuses_norm) {
    FuseNorm(step_, weights.ffn_norm, args);
  } else {
    args.rows = {scratch.normed(), scratch.widths().hidden};
  }
  RETURN_IF_ERROR(StreamProduct(args, 1, NextLaunch(step_)).status());
  SbiArgs down;
  down.kind = SbiKind::kDown;
  down.weights = weights.down;
  down.tokens = step_.batch.tokens;
  down.table = table;
  down.table.ready_early = grouped;
  down.rows = {scratch.inner(), scratch.widths().ffn};
  down.out = static_cast<float*>(scratch.outer());
  down.out_stride = scratch.widths().hidden_padded;
  step_.parts.trace.Enter(
      "down", weights.layer,
      ProductCost(weights.down, step_.batch.tokens * table.top_k, step_.TouchedMatrices(weights)),
      step_.stream());
  RETURN_IF_ERROR(StreamProduct(down, 1, NextLaunch(step_)).status());
  if (!grouped) {
    step_.pending = Slabs(down.out, 1, down.out_stride * down.tokens, down.out_stride);
  } else {
    PendExperts(PendingKind::kRowsF32, down.out_stride);
  }
  return absl::OkStatus();
}

// ---- experts

void FastBlocks::PendExperts(PendingKind kind, int64_t row_stride) {
  FastScratch& scratch = step_.scratch;
  PendingSum pending;
  pending.kind = kind;
  pending.data = scratch.outer();
  pending.count = shape().moe.top_k;
  pending.row_stride = row_stride;
  pending.gate_weights = scratch.gate_weights();
  if (kind == PendingKind::kRowsBf16) pending.row_of_entry = scratch.row_of_entry();
  step_.pending = pending;
}

absl::Status FastBlocks::Route(const RouteChoice& choice, const RouteTable& table) {
  const DeviceLayer& weights = layer_.weights;
  FastScratch& scratch = step_.scratch;
  OpTrace& trace = step_.parts.trace;
  const int32_t tokens = step_.batch.tokens;
  if (step_.fuses_gate && tokens <= kDecodeGateTokensMax) {
    DecodeGateArgs args;
    args.norm.tokens = tokens;
    args.norm.hidden = shape().hidden;
    args.norm.residual_in = step_.Residual();
    args.norm.residual_out = step_.Residual();
    args.norm.pending = step_.pending;
    args.norm.norm_weight = weights.ffn_norm;
    args.norm.epsilon = shape().norm_epsilon;
    args.norm.normed = scratch.normed();
    args.router = weights.router;
    args.choice = choice;
    args.table = table;
    args.ticket = scratch.gate_ticket();
    if (step_.overlaps && layer_.next != nullptr) {
      args.prefetch = layer_.next->qkv.data;
      args.prefetch_bytes = layer_.next->qkv.matrix_bytes;
    }
    step_.pending = PendingSum();
    trace.Enter("gate", weights.layer, ProductCost(weights.router, tokens, 1), step_.stream());
    const ProductLaunch launch = NextLaunch(step_);
    return DecodeGate(args, launch.stream, launch.dependent);
  }
  RETURN_IF_ERROR(TakePending(step_, weights.ffn_norm, weights.layer));
  RouterLogitsArgs logits;
  logits.tokens = tokens;
  logits.x = scratch.normed();
  logits.x_stride = scratch.widths().hidden;
  logits.router = weights.router;
  logits.logits = scratch.router();
  logits.logits_stride = scratch.widths().experts;
  trace.Enter("router", weights.layer, ProductCost(weights.router, tokens, 1), step_.stream());
  ProductLaunch launch = NextLaunch(step_);
  RETURN_IF_ERROR(RouterLogits(logits, launch.stream, launch.dependent));
  PrefillGateArgs gate;
  gate.tokens = tokens;
  gate.experts = shape().moe.experts;
  gate.logits = scratch.router();
  gate.logits_stride = scratch.widths().experts;
  gate.choice = choice;
  gate.table = table;
  gate.scratch = scratch.workspace();
  trace.Enter("gate", weights.layer, {4.0 * tokens * gate.experts, 0}, step_.stream());
  launch = NextLaunch(step_);
  return PrefillGate(gate, launch.stream, launch.dependent);
}

absl::Status FastBlocks::Moe(const MoeChoices& choices) {
  const DeviceLayer& weights = layer_.weights;
  FastScratch& scratch = step_.scratch;
  OpTrace& trace = step_.parts.trace;
  const int32_t tokens = step_.batch.tokens;
  const int32_t top_k = shape().moe.top_k;
  const int32_t entries = tokens * top_k;
  const RouteChoice choice = {top_k, choices.normalize, scratch.experts(), scratch.gate_weights()};
  RouteTable table;
  table.slots = weights.gate_up.matrices;
  table.slot_first = scratch.slot_first(step_.batch.part, step_.expert_layer++);
  table.order = scratch.order();
  table.row_of_entry = scratch.row_of_entry();
  table.active_count = scratch.active();
  table.active_slot = scratch.active() + 1;
  RETURN_IF_ERROR(Route(choice, table));
  if (step_.streams_experts) {
    trace.Enter("gate_up", weights.layer,
                ProductCost(weights.gate_up, entries, step_.TouchedMatrices(weights)),
                step_.stream());
    return StreamFfn({table.active_count, table.active_slot, table.slot_first, table.order, top_k},
                     false);
  }
  PermuteArgs permute;
  permute.tokens = tokens;
  permute.hidden = shape().hidden;
  permute.top_k = top_k;
  permute.x = scratch.normed();
  permute.row_of_entry = scratch.row_of_entry();
  permute.x_perm = scratch.permuted();
  trace.Enter("permute", weights.layer, {2.0 * (tokens + entries) * permute.hidden, 0},
              step_.stream());
  const ProductLaunch launch = NextLaunch(step_);
  RETURN_IF_ERROR(PermuteRows(permute, launch.stream, launch.dependent));
  trace.Enter("gate_up", weights.layer,
              ProductCost(weights.gate_up, entries, step_.TouchedMatrices(weights)),
              step_.stream());
  RETURN_IF_ERROR(TileFfn({entries, table.slot_first, scratch.permuted(), TileEpilogue::kBf16}));
  PendExperts(PendingKind::kRowsBf16, scratch.widths().hidden);
  return absl::OkStatus();
}

}  // namespace conclave
