#include "worker/model/head.h"

#include <algorithm>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "comm/base/status.h"
#include "glog/logging.h"
#include "kernels/lm_head/lm_head.h"
#include "kernels/sampling/sampling.h"

namespace conclave {
namespace {

// Logits held at once, in floats: 32 MiB, enough rows that the head's weights are read rarely more
// than once a step.
constexpr int64_t kHeadBlockFloats = 8 << 20;

// Vocabulary slice of a tp rank, as ModelWeights cuts it.
struct VocabSlice {
  int64_t begin;
  int64_t end;
  int64_t size() const { return end - begin; }
};

VocabSlice SliceOf(int64_t vocab, int tp, int tp_size) {
  return {tp * vocab / tp_size, (tp + 1) * vocab / tp_size};
}

SamplerOptions OptionsOf(const SamplingParams& params) {
  return {params.temperature, params.top_k, params.top_p, params.min_p, params.seed};
}

absl::Span<const uint8_t> BytesOf(ConstRows rows) {
  return {reinterpret_cast<const uint8_t*>(rows.data),
          static_cast<size_t>(rows.rows * rows.cols) * sizeof(float)};
}

// Completes full [rows, vocab] on tp rank 0, whose own slice is already in place.
absl::Status ReceiveSlices(StepContext& ctx, Rows full) {
  std::vector<RecvBuffer> recvs;
  std::vector<Rows> slices;
  const Rows space = ctx.buffers.gathered.Take(full.rows, full.cols);
  float* next = space.data;
  for (int t = 1; t < ctx.tp.size(); ++t) {
    const int64_t cols = SliceOf(full.cols, t, ctx.tp.size()).size();
    slices.push_back({next, full.rows, cols, cols});
    const absl::Span<const uint8_t> bytes = BytesOf(slices.back());
    recvs.push_back({ctx.tp.ranks[t], {reinterpret_cast<uint8_t*>(next), bytes.size()}, 0});
    next += full.rows * cols;
  }
  RETURN_IF_ERROR(ctx.fabric.Exchange({}, absl::MakeSpan(recvs), ctx.Op("lm_head_gather", -1)));
  for (size_t i = 0; i < recvs.size(); ++i) {
    if (recvs[i].received != recvs[i].bytes.size()) {
      return absl::InternalError(absl::StrCat("lm_head_gather: rank ", recvs[i].peer, " sent ",
                                              recvs[i].received, " bytes, expected ",
                                              recvs[i].bytes.size()));
    }
    const int64_t begin = SliceOf(full.cols, static_cast<int>(i) + 1, ctx.tp.size()).begin;
    for (int64_t r = 0; r < full.rows; ++r) {
      std::memcpy(full.row(r) + begin, slices[i].row(r), slices[i].cols * sizeof(float));
    }
  }
  return absl::OkStatus();
}

// Logits of a block of head rows on tp rank 0: [rows, vocab]; on the others the slice is sent and
// the result is empty.
absl::StatusOr<Rows> BlockLogits(StepContext& ctx, const HeadSlice& head,
                                 absl::Span<const HeadRow> block) {
  const int64_t rows = static_cast<int64_t>(block.size());
  const bool gathers = ctx.tp.index == 0;
  const int64_t slice_cols = head.vocab_end - head.vocab_begin;
  const Rows full = ctx.buffers.logits.Take(rows, gathers ? ctx.shape.vocab : slice_cols);
  const Rows slice = {full.data, rows, slice_cols, full.cols};
  std::vector<int32_t> tokens;
  tokens.reserve(block.size());
  for (const HeadRow& row : block) tokens.push_back(row.token);
  RETURN_IF_ERROR(head.compute(tokens, slice));
  if (ctx.tp.size() == 1) return full;
  const Phase before = ctx.meter.Enter(Phase::kCollective);
  if (gathers) {
    RETURN_IF_ERROR(ReceiveSlices(ctx, full));
  } else {
    const SendBuffer send = {ctx.tp.ranks[0], BytesOf(slice)};
    RETURN_IF_ERROR(ctx.fabric.Exchange({&send, 1}, {}, ctx.Op("lm_head_gather", -1)));
  }
  ctx.meter.Enter(before);
  return gathers ? full : Rows{};
}

void ReportLogits(const StepContext& ctx, absl::Span<const HeadRow> block, ConstRows logits,
                  LogitsSink sink) {
  const int64_t vocab = ctx.shape.vocab;
  const int64_t rows_max = std::max<int64_t>(1, kLogitsFactBytes / (vocab * sizeof(float)));
  const auto follows = [&block](size_t i) {
    return block[i].report && block[i].sequence == block[i - 1].sequence &&
           block[i].position == block[i - 1].position + 1;
  };
  for (size_t first = 0; first < block.size();) {
    size_t end = first + 1;
    if (block[first].report) {
      while (end < block.size() && end - first < rows_max && follows(end)) ++end;
      Logits fact;
      fact.step = ctx.batch.plan().step;
      fact.request = ctx.batch.plan().batch[block[first].sequence].request;
      fact.position = block[first].position;
      fact.vocab = static_cast<int32_t>(vocab);
      fact.values.assign(logits.row(first), logits.row(first) + (end - first) * vocab);
      sink(std::move(fact));
    }
    first = end;
  }
}

// Rows are independent: a draw depends on the row, the seed and the position alone.
void SampleBlock(StepContext& ctx, absl::Span<const HeadRow> block, ConstRows logits,
                 std::vector<SampledToken>& sampled) {
  std::vector<size_t> rows;
  for (size_t i = 0; i < block.size(); ++i) {
    if (block[i].sample) rows.push_back(i);
  }
  const size_t base = sampled.size();
  sampled.resize(base + rows.size());
  ctx.pool.ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t i) {
    const HeadRow& row = block[rows[i]];
    const SequenceSlice& slice = ctx.batch.plan().batch[row.sequence];
    const int32_t position = row.position + 1;
    const Sample sample = SampleToken({logits.row(rows[i]), static_cast<size_t>(logits.cols)},
                                      OptionsOf(slice.sampling), position);
    sampled[base + i] = {slice.request, position, sample.token, sample.logprob};
  });
}

}  // namespace

absl::Status RunHead(StepContext& ctx, const HeadSlice& head, LogitsSink sink,
                     std::vector<SampledToken>& sampled) {
  absl::Span<const HeadRow> rows = ctx.batch.head_rows();
  if (rows.empty()) return absl::OkStatus();
  const VocabSlice own = SliceOf(ctx.shape.vocab, ctx.tp.index, ctx.tp.size());
  CHECK_EQ(head.vocab_begin, own.begin);
  CHECK_EQ(head.vocab_end, own.end);
  ctx.meter.Enter(Phase::kHead);
  const size_t rows_max = std::max<int64_t>(1, kHeadBlockFloats / ctx.shape.vocab);
  while (!rows.empty()) {
    const absl::Span<const HeadRow> block = rows.first(std::min(rows.size(), rows_max));
    rows.remove_prefix(block.size());
    ASSIGN_OR_RETURN(const Rows logits, BlockLogits(ctx, head, block));
    if (logits.data == nullptr) continue;
    ReportLogits(ctx, block, logits, sink);
    SampleBlock(ctx, block, logits, sampled);
  }
  return absl::OkStatus();
}

absl::Status RunCpuHead(StepContext& ctx, const ModelWeights& weights, LogitsSink sink,
                        std::vector<SampledToken>& sampled) {
  if (ctx.batch.head_rows().empty()) return absl::OkStatus();
  ctx.meter.Enter(Phase::kHead);
  NormResidual(ctx, weights.final_norm);
  const auto compute = [&](absl::Span<const int32_t> tokens, Rows slice) {
    LmHead(ctx.Normed(), tokens, weights.lm_head(),
           ctx.buffers.head_rows.Take(slice.rows, ctx.shape.hidden), slice, ctx.pool);
    ctx.meter.AddWeightBytes(weights.lm_head().bytes());
    return absl::OkStatus();
  };
  return RunHead(ctx, {weights.vocab_begin, weights.vocab_end, compute}, sink, sampled);
}

absl::Status ShareSampled(StepContext& ctx, const ParallelSpec& spec, int rank,
                          std::vector<int32_t>& tokens) {
  if (ctx.batch.samples() == 0) return absl::OkStatus();
  const GridPosition at = spec.PositionOf(rank);
  const int source = spec.RankOf({spec.pp - 1, at.dp, 0});
  const size_t count = static_cast<size_t>(ctx.batch.samples());
  std::vector<SendBuffer> sends;
  std::vector<RecvBuffer> recvs;
  if (rank == source) {
    CHECK_EQ(tokens.size(), count);
    const absl::Span<const uint8_t> bytes = {reinterpret_cast<const uint8_t*>(tokens.data()),
                                             count * sizeof(int32_t)};
    for (int t = 0; t < spec.tp; ++t) {
      const int peer = spec.RankOf({0, at.dp, t});
      if (peer != rank) sends.push_back({peer, bytes});
    }
  } else if (at.pp == 0) {
    tokens.resize(count);
    recvs.push_back(
        {source, {reinterpret_cast<uint8_t*>(tokens.data()), count * sizeof(int32_t)}, 0});
  }
  if (sends.empty() && recvs.empty()) return absl::OkStatus();
  ctx.meter.Enter(Phase::kCollective);
  RETURN_IF_ERROR(ctx.fabric.Exchange(sends, absl::MakeSpan(recvs), ctx.Op("sampled", -1)));
  for (const RecvBuffer& recv : recvs) {
    if (recv.received != recv.bytes.size()) {
      return absl::InternalError(absl::StrCat("sampled tokens: rank ", recv.peer, " sent ",
                                              recv.received, " bytes, expected ",
                                              recv.bytes.size()));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave
