#include <algorithm>
#include <bit>
#include <cmath>

#include "comm/base/dtype.h"
#include "kernels/qkv_post/qkv_post.h"
#include "kernels/qkv_post/qkv_rows_ref.h"
#include "kernels/qkv_post/rope_table.h"

namespace conclave {
namespace {

float Widen(uint16_t bf16) { return std::bit_cast<float>(uint32_t{bf16} << 16); }

// x := weights * x / rms(x).
void Normalize(double* x, int64_t count, const float* weights, double epsilon) {
  double squares = 0;
  for (int64_t i = 0; i < count; ++i) squares += x[i] * x[i];
  const double scale = 1 / std::sqrt(squares / static_cast<double>(count) + epsilon);
  for (int64_t i = 0; i < count; ++i) x[i] *= scale * weights[i];
}

void Rotate(double* x, int half, const float* angles) {
  for (int i = 0; i < half; ++i) {
    const double a = x[i], b = x[half + i], cosine = angles[2 * i], sine = angles[2 * i + 1];
    x[i] = a * cosine - b * sine;
    x[half + i] = b * cosine + a * sine;
  }
}

}  // namespace

void NormRopeRowRef(const QkvRowRef& shape, int32_t position, std::vector<double>& row) {
  const int head_dim = shape.cache.head_dim, kv_heads = shape.cache.kv_heads;
  double* k = row.data() + shape.heads * head_dim;
  if (shape.norm.kind == GpuQkNorm::kFullWidth) {
    Normalize(row.data(), shape.heads * head_dim, shape.norm.q, shape.norm.epsilon);
    Normalize(k, kv_heads * head_dim, shape.norm.k, shape.norm.epsilon);
  }
  for (int h = 0; h < shape.heads + kv_heads; ++h) {
    double* head = row.data() + h * head_dim;
    if (shape.norm.kind == GpuQkNorm::kPerHead) {
      Normalize(head, head_dim, h < shape.heads ? shape.norm.q : shape.norm.k, shape.norm.epsilon);
    }
    if (shape.rope != nullptr)
      Rotate(head, head_dim / 2, shape.rope + int64_t{position} * head_dim);
  }
}

void WriteKvRowRef(const QkvRowRef& shape, const int32_t* pages, int32_t position,
                   const std::vector<double>& row) {
  const GpuKvLayer& cache = shape.cache;
  const int64_t page = pages[position / cache.page_tokens];
  for (int which = 0; which < 2; ++which) {
    for (int h = 0; h < cache.kv_heads; ++h) {
      const double* from = row.data() + (shape.heads + which * cache.kv_heads + h) * cache.head_dim;
      const int64_t slot = ((page * 2 + which) * cache.kv_heads + h) * cache.page_tokens +
                           position % cache.page_tokens;
      auto* to = static_cast<uint16_t*>(cache.data) + slot * cache.head_dim;
      for (int i = 0; i < cache.head_dim; ++i) to[i] = FloatToBf16(static_cast<float>(from[i]));
    }
  }
}

AttendResult AttendRowRef(const AttendRef& view, const std::vector<double>& q) {
  const GpuKvLayer& cache = view.cache;
  const int head_dim = cache.head_dim;
  const auto row_at = [&](int which, int position) {
    const int64_t page = view.pages[position / cache.page_tokens];
    const int64_t head = (page * 2 + which) * cache.kv_heads + view.kv_head;
    return static_cast<const uint16_t*>(cache.data) +
           (head * cache.page_tokens + position % cache.page_tokens) * head_dim;
  };
  AttendResult result;
  result.out.assign(head_dim, 0);
  std::vector<double> scores(view.context);
  for (int p = 0; p < view.context; ++p) {
    const uint16_t* k = row_at(0, p);
    double score = 0;
    for (int i = 0; i < head_dim; ++i) score += q[i] * Widen(k[i]);
    scores[p] = score * view.scale;
    result.top = std::max(result.top, scores[p]);
  }
  for (int p = 0; p < view.context; ++p) {
    const double weight = std::exp(scores[p] - result.top);
    const uint16_t* v = row_at(1, p);
    result.sum += weight;
    for (int i = 0; i < head_dim; ++i) result.out[i] += weight * Widen(v[i]);
  }
  return result;
}

void QkvPostRef(const QkvPostArgs& args) {
  const QkvRowRef shape = {args.heads, args.cache, args.norm, args.rope};
  const GpuBatch& batch = args.batch;
  std::vector<double> row((args.heads + 2 * args.cache.kv_heads) * args.cache.head_dim);
  for (int s = 0; s < batch.sequences; ++s) {
    for (int t = batch.first_token[s]; t < batch.first_token[s + 1]; ++t) {
      const int32_t position = batch.position[s] + t - batch.first_token[s];
      const auto* from = static_cast<const uint16_t*>(args.qkv) + t * args.qkv_stride;
      for (size_t i = 0; i < row.size(); ++i) row[i] = Bf16ToFloat(from[i]);
      NormRopeRowRef(shape, position, row);
      WriteKvRowRef(shape, batch.page_table + batch.first_page[s], position, row);
      auto* q = static_cast<uint16_t*>(args.q) + t * args.q_stride;
      for (int i = 0; i < args.heads * args.cache.head_dim; ++i) {
        q[i] = FloatToBf16(static_cast<float>(row[i]));
      }
    }
  }
}

void FillRopeTableRef(const RopeTableArgs& args) {
  const int half = args.head_dim / 2;
  for (int64_t i = 0; i < int64_t{args.positions} * half; ++i) {
    const float angle = args.frequencies[i % half] * static_cast<float>(i / half);
    args.table[2 * i] = static_cast<float>(std::cos(static_cast<double>(angle)));
    args.table[2 * i + 1] = static_cast<float>(std::sin(static_cast<double>(angle)));
  }
}

}  // namespace conclave
