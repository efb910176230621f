#include <algorithm>
#include <cmath>
#include <vector>

#include "glog/logging.h"
#include "kernels/attention/paged_attention.h"

namespace conclave {
namespace {

// Element i of the cached key (which 0) or value (which 1) of a kv head at a position.
struct CacheReader {
  const AttentionArgs& args;
  int sequence;
  int kv_head;

  double At(int which, int32_t position, int i) const {
    const KvLayer& cache = args.cache;
    const PagedBatch& batch = args.batch;
    const int64_t page =
        batch.page_table[batch.first_page[sequence] + position / cache.page_tokens];
    const int64_t index = (((page * 2 + which) * cache.kv_heads + kv_head) * cache.page_tokens +
                           position % cache.page_tokens) *
                              cache.head_dim +
                          i;
    if (cache.dtype == Dtype::kF32) return static_cast<const float*>(cache.data)[index];
    const uint16_t bits = static_cast<const uint16_t*>(cache.data)[index];
    return cache.dtype == Dtype::kF16 ? F16ToFloat(bits) : Bf16ToFloat(bits);
  }
};

// softmax(scale * q K^T) V over positions 0..position.
void AttendOne(const CacheReader& cache, const float* q, int32_t position, float* out) {
  const int head_dim = cache.args.cache.head_dim;
  std::vector<double> weight(position + 1, 0.0);
  for (int32_t p = 0; p <= position; ++p) {
    for (int i = 0; i < head_dim; ++i) weight[p] += q[i] * cache.At(0, p, i);
    weight[p] *= cache.args.scale;
  }
  const double max = *std::max_element(weight.begin(), weight.end());
  double sum = 0;
  for (double& w : weight) sum += w = std::exp(w - max);
  for (int i = 0; i < head_dim; ++i) {
    double value = 0;
    for (int32_t p = 0; p <= position; ++p) value += weight[p] * cache.At(1, p, i);
    out[i] = static_cast<float>(value / sum);
  }
}

}  // namespace

void PagedAttentionRef(const AttentionArgs& args) {
  const PagedBatch& batch = args.batch;
  CHECK_EQ(args.heads % args.cache.kv_heads, 0);
  const int group = args.heads / args.cache.kv_heads;
  for (int s = 0; s < batch.sequences(); ++s) {
    for (int32_t t = batch.first_token[s]; t < batch.first_token[s + 1]; ++t) {
      const int32_t position = batch.position[s] + t - batch.first_token[s];
      for (int head = 0; head < args.heads; ++head) {
        const int64_t column = static_cast<int64_t>(head) * args.cache.head_dim;
        AttendOne({args, s, head / group}, args.q.row(t) + column, position,
                  args.out.row(t) + column);
      }
    }
  }
}

}  // namespace conclave
