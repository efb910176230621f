#include <cmath>
#include <vector>

#include "comm/base/dtype.h"
#include "kernels/decode_attention/decode_attention.h"
#include "kernels/qkv_post/qkv_rows_ref.h"

namespace conclave {
namespace {

std::vector<double> SumRow(const DecodeAttentionArgs& args, int token) {
  const DecodeQkv& qkv = args.qkv;
  std::vector<double> row((args.heads + 2 * args.cache.kv_heads) * args.cache.head_dim);
  for (size_t i = 0; i < row.size(); ++i) {
    const int64_t at = token * qkv.row_stride + static_cast<int64_t>(i);
    if (qkv.rows != nullptr) {
      row[i] = Bf16ToFloat(static_cast<const uint16_t*>(qkv.rows)[at]);
      continue;
    }
    for (int s = 0; s < qkv.splits; ++s) row[i] += qkv.partials[s * qkv.slab_stride + at];
  }
  return row;
}

// Attention of one query head at the token's position.
AttendResult AttendHead(const DecodeAttentionArgs& args, int token, int head, const double* row) {
  const int head_dim = args.cache.head_dim;
  AttendRef view = {args.cache, args.batch.page_table + args.batch.first_page[token],
                    head / (args.heads / args.cache.kv_heads), args.batch.position[token] + 1,
                    args.scale};
  std::vector<double> q(row + head * head_dim, row + (head + 1) * head_dim);
  for (double& x : q) x = Bf16ToFloat(FloatToBf16(static_cast<float>(x)));
  return AttendRowRef(view, q);
}

}  // namespace

void DecodeAttentionRef(const DecodeAttentionArgs& args) {
  const QkvRowRef shape = {args.heads, args.cache, args.norm, args.rope};
  const int head_dim = args.cache.head_dim;
  for (int t = 0; t < args.batch.tokens; ++t) {
    const int32_t position = args.batch.position[t];
    std::vector<double> row = SumRow(args, t);
    if (position >= 0) {
      NormRopeRowRef(shape, position, row);
      WriteKvRowRef(shape, args.batch.page_table + args.batch.first_page[t], position, row);
    }
    for (int h = 0; h < args.heads; ++h) {
      AttendResult result;
      result.out.assign(head_dim, 0);
      if (position >= 0) result = AttendHead(args, t, h, row.data());
      const int64_t at = int64_t{t} * args.heads + h;
      if (args.splits.o != nullptr) {
        args.splits.m[at] = static_cast<float>(result.top);
        args.splits.l[at] = static_cast<float>(result.sum);
        for (int i = 0; i < head_dim; ++i) {
          args.splits.o[at * head_dim + i] = static_cast<float>(result.out[i]);
        }
      }
      if (args.out == nullptr) continue;
      auto* to = static_cast<uint16_t*>(args.out) + t * args.out_stride + h * head_dim;
      for (int i = 0; i < head_dim; ++i) {
        const double value = result.sum > 0 ? result.out[i] / result.sum : 0;
        to[i] = FloatToBf16(static_cast<float>(value));
      }
    }
  }
}

}  // namespace conclave
