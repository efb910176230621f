#include "worker/model/cuda/fast_scratch.h"

#include <algorithm>

#include "comm/base/status.h"
#include "kernels/moe_route/moe_route.h"
#include "kernels/sbi_gemm/sbi_gemm_config.h"
#include "kernels/token_sampler/token_sampler.h"

namespace conclave {
namespace {

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

ScratchWidths::ScratchWidths(const ModelShape& shape, const DeviceWeights& weights) {
  hidden = shape.hidden;
  hidden_padded = RoundUp(shape.hidden, 16);
  experts = RoundUp(std::max(1, shape.moe.experts), 16);
  heads = shape.heads;
  attention = static_cast<int64_t>(shape.heads) * shape.head_dim;
  qkv = RoundUp(attention + 2LL * shape.kv_heads * shape.head_dim, 16);
  vocab = RoundUp(shape.vocab, 16);
  top_k = std::max(1, shape.moe.top_k);
  for (const DeviceLayer& layer : weights.layers) {
    ffn = std::max(ffn, RoundUp(layer.ffn, 16));
    slots = std::max<int64_t>(slots, layer.gate_up.matrices);
    expert_layers += layer.router.data != nullptr ? 1 : 0;
  }
}

absl::Status FastScratch::Reserve(const ScratchSize& size) {
  if (size_.Holds(size)) return absl::OkStatus();
  size_ = {std::max(size.tokens, size_.tokens), std::max(size.rows, size_.rows),
           std::max(size.parts, size_.parts)};
  RETURN_IF_ERROR(SynchronizeCudaDevice());
  ++generation_;
  const int64_t tokens = size_.tokens;
  const int64_t small = std::min<int64_t>(tokens, kSbiTokensMax);
  const int64_t entries = tokens * widths_.top_k;
  const int64_t widest = std::max(widths_.qkv, widths_.hidden_padded);
  struct Need {
    DeviceBuffer* buffer;
    int64_t bytes;
  };
  const Need needs[] = {
      {&residual_[0], tokens * widths_.hidden * 4},
      {&residual_[1], tokens * widths_.hidden * 4},
      {&normed_, tokens * widths_.hidden * 2},
      {&partials_, kScratchSplitsMax * small * widest * 4},
      {&qkv_, tokens * widths_.qkv * 2},
      {&attention_, tokens * RoundUp(widths_.attention, 8) * 2},
      {&split_o_, kContextSplitsMax * std::min<int64_t>(tokens, 256) * widths_.attention * 4},
      {&split_m_, kContextSplitsMax * std::min<int64_t>(tokens, 256) * widths_.heads * 4},
      {&split_l_, kContextSplitsMax * std::min<int64_t>(tokens, 256) * widths_.heads * 4},
      {&router_, tokens * widths_.experts * 4},
      {&experts_, entries * 4},
      {&gate_weights_, entries * 4},
      {&order_, entries * 4},
      {&row_of_entry_, entries * 4},
      {&active_, (1 + widths_.slots) * 4},
      {&permuted_, entries * widths_.hidden * 2},
      {&inner_, entries * widths_.ffn * 2},
      {&outer_,
       std::max(entries * widths_.hidden * 2, small * widths_.top_k * widths_.hidden_padded * 4)},
      {&logits_, size_.rows * widths_.vocab * 4},
      {&head_rows_, size_.rows * widths_.hidden * 2},
      {&workspace_, RouteScratchBytes(size_.tokens, static_cast<int32_t>(widths_.slots))},
      {&counters_, 256},
      {&sampler_, TokenSamplerScratchBytes(size_.rows)},
      {&loads_, size_.parts * widths_.expert_layers * (widths_.slots + 1) * 4},
  };
  for (const Need& need : needs) {
    if (need.buffer->bytes() >= need.bytes) continue;
    *need.buffer = DeviceBuffer();
    ASSIGN_OR_RETURN(*need.buffer, DeviceBuffer::Create(need.bytes));
    // Padding is multiplied by zero weights: it must be numbers.
    RETURN_IF_ERROR(FillDevice(need.buffer->data(), 0, need.buffer->bytes(), nullptr));
  }
  return SynchronizeCudaDevice();
}

}  // namespace conclave
