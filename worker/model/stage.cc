#include "worker/model/stage.h"

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"

namespace conclave {
namespace {

absl::Span<uint8_t> BytesOf(Rows rows) {
  return {reinterpret_cast<uint8_t*>(rows.data),
          static_cast<size_t>(rows.rows * rows.cols) * sizeof(float)};
}

}  // namespace

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

absl::Status ReceiveActivations(StepContext& ctx, int peer, Rows rows) {
  RecvBuffer recv = {peer, BytesOf(rows), 0};
  RETURN_IF_ERROR(ctx.fabric.Exchange({}, {&recv, 1}, ctx.Op("stage_activations", -1)));
  if (recv.received == recv.bytes.size()) return absl::OkStatus();
  return absl::InternalError(absl::StrCat("stage_activations: rank ", peer, " sent ", recv.received,
                                          " bytes, expected ", recv.bytes.size()));
}

absl::Status SendActivations(StepContext& ctx, int peer, Rows rows) {
  const SendBuffer send = {peer, BytesOf(rows)};
  return ctx.fabric.Exchange({&send, 1}, {}, ctx.Op("stage_activations", -1));
}

absl::Status NoteSampled(const StepContext& ctx, const std::vector<int32_t>& tokens,
                         SampledBefore& before) {
  before.clear();
  size_t next = 0;
  for (const HeadRow& row : ctx.batch.head_rows()) {
    if (!row.sample) continue;
    const int32_t token = tokens[next++];
    if (token < 0 || token >= ctx.shape.vocab) {
      return absl::InternalError(
          absl::StrCat("sampled token ", token, " is outside the vocabulary"));
    }
    before[ctx.batch.plan().batch[row.sequence].request] = token;
  }
  return absl::OkStatus();
}

}  // namespace conclave
