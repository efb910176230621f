#include <vector>

#include "comm/base/dtype.h"
#include "kernels/flash_attention/flash_attention.h"
#include "kernels/qkv_post/qkv_rows_ref.h"

namespace conclave {

std::vector<double> FlashAttentionRefAt(const FlashAttentionArgs& args, FlashRefPlace at) {
  const GpuBatch& batch = args.batch;
  const int head_dim = args.cache.head_dim;
  const auto* from =
      static_cast<const uint16_t*>(args.q) + at.token * args.q_stride + at.head * head_dim;
  std::vector<double> q(head_dim);
  for (int i = 0; i < head_dim; ++i) q[i] = Bf16ToFloat(from[i]);
  const AttendRef view = {
      args.cache, batch.page_table + batch.first_page[at.sequence],
      at.head / (args.heads / args.cache.kv_heads),
      batch.position[at.sequence] + at.token - batch.first_token[at.sequence] + 1, args.scale};
  AttendResult result = AttendRowRef(view, q);
  for (double& x : result.out) x /= result.sum;
  return result.out;
}

void FlashAttentionRef(const FlashAttentionArgs& args) {
  const GpuBatch& batch = args.batch;
  for (int s = 0; s < batch.sequences; ++s) {
    for (int t = batch.first_token[s]; t < batch.first_token[s + 1]; ++t) {
      for (int h = 0; h < args.heads; ++h) {
        const std::vector<double> row = FlashAttentionRefAt(args, {s, t, h});
        auto* to = static_cast<uint16_t*>(args.out) + t * args.out_stride +
                   int64_t{h} * args.cache.head_dim;
        for (size_t i = 0; i < row.size(); ++i) to[i] = FloatToBf16(static_cast<float>(row[i]));
      }
    }
  }
}

}  // namespace conclave
