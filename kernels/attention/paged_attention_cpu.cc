#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/attention/attend_block.h"
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/paged_attention_cpu.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/attention/lanes16-inl.h"

#ifndef CONCLAVE_KERNELS_ATTENTION_PAGED_ATTENTION_CPU_ONCE_
#define CONCLAVE_KERNELS_ATTENTION_PAGED_ATTENTION_CPU_ONCE_
namespace conclave {

constexpr int kAttendPageMax = 64;
constexpr int kAttendWidthMax = 256;

// What a block keeps on its stack. Widths are head_dim rounded up to 16, the rest zero.
struct AttendState {
  alignas(64) float q[kAttendRows * kAttendWidthMax];
  alignas(64) float acc[kAttendRows * kAttendWidthMax];
  alignas(64) float keys[kAttendPageMax * kAttendWidthMax];
  alignas(64) float values[kAttendPageMax * kAttendWidthMax];
  alignas(64) float score[kAttendPageMax];
  float max[kAttendRows];
  float sum[kAttendRows];
  int64_t position[kAttendRows];
  int64_t width = 0;
  float scale = 0;
  int rows = 0;
};

// Tokens of one page that a row sees, as fp32 rows of `width`.
struct AttendPage {
  const float* keys = nullptr;
  const float* values = nullptr;
  int64_t tokens = 0;
  int64_t width = 0;
};

}  // namespace conclave
#endif

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

HWY_INLINE Vec8 Widen8(const hwy::float16_t* p) {
  return hn::PromoteTo(Tag8(), hn::LoadU(hn::Rebind<hwy::float16_t, Tag8>(), p));
}
HWY_INLINE Vec8 Widen8(const hwy::bfloat16_t* p) {
  return hn::PromoteTo(Tag8(), hn::LoadU(hn::Rebind<hwy::bfloat16_t, Tag8>(), p));
}
HWY_INLINE Vec8 Widen8(const float* p) { return hn::LoadU(Tag8(), p); }

// `tokens` rows of head_dim elements to fp32 rows of `width`, zeros behind head_dim.
template <typename T>
void WidenRows(const T* source, int64_t tokens, int64_t head_dim, int64_t width, float* out) {
  for (int64_t t = 0; t < tokens; ++t) {
    const T* row = source + t * head_dim;
    float* to = out + t * width;
    int64_t i = 0;
    for (; i + 8 <= head_dim; i += 8) hn::StoreU(Widen8(row + i), Tag8(), to + i);
    if (i < head_dim) {
      T tail[8] = {};
      std::copy(row + i, row + head_dim, tail);
      hn::StoreU(Widen8(tail), Tag8(), to + i);
      i += 8;
    }
    for (; i < width; i += 8) hn::StoreU(hn::Zero(Tag8()), Tag8(), to + i);
  }
}

// The first `tokens` rows of a head's slab as fp32 rows of `width`: the cache itself where it is
// that already.
const float* HeadRows(const KvLayer& cache, int64_t offset, int64_t tokens, int64_t width,
                      float* scratch) {
  switch (cache.dtype) {
    case Dtype::kF16:
      WidenRows(static_cast<const hwy::float16_t*>(cache.data) + offset, tokens, cache.head_dim,
                width, scratch);
      return scratch;
    case Dtype::kBf16:
      WidenRows(static_cast<const hwy::bfloat16_t*>(cache.data) + offset, tokens, cache.head_dim,
                width, scratch);
      return scratch;
    default: {
      const float* data = static_cast<const float*>(cache.data) + offset;
      if (cache.head_dim == width) return data;
      WidenRows(data, tokens, cache.head_dim, width, scratch);
      return scratch;
    }
  }
}

// score[t] = scale * (q . keys[t]). Four keys at a time; past the last it repeats the last.
HWY_INLINE void Scores(const float* q, const AttendPage& page, float scale, float* score) {
  const float* keys = page.keys;
  const int64_t tokens = page.tokens, width = page.width;
  const hn::FixedTag<float, 4> tag4;
  for (int64_t t = 0; t < tokens; t += 4) {
    const int64_t last = tokens - 1;
    const float* k0 = keys + t * width;
    const float* k1 = keys + std::min(t + 1, last) * width;
    const float* k2 = keys + std::min(t + 2, last) * width;
    const float* k3 = keys + std::min(t + 3, last) * width;
    Lanes16 s0 = Set16(0), s1 = Set16(0), s2 = Set16(0), s3 = Set16(0);
    for (int64_t i = 0; i < width; i += 16) {
      const Lanes16 x = Load16(q + i);
      s0 = MulAdd16(x, Load16(k0 + i), s0);
      s1 = MulAdd16(x, Load16(k1 + i), s1);
      s2 = MulAdd16(x, Load16(k2 + i), s2);
      s3 = MulAdd16(x, Load16(k3 + i), s3);
    }
    hn::StoreU(hn::Mul(Sum4(s0, s1, s2, s3), hn::Set(tag4, scale)), tag4, score + t);
  }
}

// score := exp(score - max), zeros from `tokens` to the next multiple of 16; the sum of them.
HWY_INLINE float ExpScores(float* score, int64_t tokens, float max) {
  const Lanes16 shift = Set16(max);
  Lanes16 sum = Set16(0);
  for (int64_t t = 0; t < tokens; t += 16) {
    const float low = std::numeric_limits<float>::lowest();
    const Lanes16 s = t + 16 <= tokens ? Load16(score + t) : LoadTail16(score + t, tokens - t, low);
    const Lanes16 e = Exp16(Sub16(s, shift));
    Store16(e, score + t);
    sum = Add16(sum, e);
  }
  return Sum16(sum);
}

// acc := acc * keep + sum over t of weight[t] * values[t], token after token, in 16 * kParts
// columns from `column` on.
template <int kParts>
HWY_INLINE void AddValues(const AttendPage& page, const float* weight, float keep, int64_t column,
                          float* acc) {
  const Lanes16 kept = Set16(keep);
  Lanes16 a[kParts];
  for (int p = 0; p < kParts; ++p) a[p] = Mul16(Load16(acc + column + 16 * p), kept);
  for (int64_t t = 0; t < page.tokens; ++t) {
    const Lanes16 w = Set16(weight[t]);
    const float* value = page.values + t * page.width + column;
    for (int p = 0; p < kParts; ++p) a[p] = MulAdd16(w, Load16(value + 16 * p), a[p]);
  }
  for (int p = 0; p < kParts; ++p) Store16(a[p], acc + column + 16 * p);
}

// One page of the online softmax for row r.
HWY_INLINE void AddPage(AttendState& state, int r, const AttendPage& page) {
  const int64_t width = page.width;
  Scores(state.q + r * width, page, state.scale, state.score);
  float max = state.max[r];
  for (int64_t t = 0; t < page.tokens; ++t) max = std::max(max, state.score[t]);
  alignas(64) float keep[16];
  Store16(Exp16(Set16(state.max[r] - max)), keep);
  state.sum[r] = state.sum[r] * keep[0] + ExpScores(state.score, page.tokens, max);
  state.max[r] = max;
  float* acc = state.acc + r * width;
  int64_t i = 0;
  for (; i + 64 <= width; i += 64) AddValues<4>(page, state.score, keep[0], i, acc);
  for (; i < width; i += 16) AddValues<1>(page, state.score, keep[0], i, acc);
}

void LoadQueries(const AttentionArgs& args, const AttendBlock& block, AttendState& state) {
  const int group = args.heads / args.cache.kv_heads;
  const int64_t head_dim = args.cache.head_dim;
  state.width = (head_dim + 15) / 16 * 16;
  state.scale = args.scale;
  state.rows = static_cast<int>(block.row_end - block.row_begin);
  std::fill_n(state.q, state.rows * state.width, 0.0f);
  std::fill_n(state.acc, state.rows * state.width, 0.0f);
  for (int r = 0; r < state.rows; ++r) {
    const int64_t token = (block.row_begin + r) / group;
    const int64_t head = block.kv_head * group + (block.row_begin + r) % group;
    const float* q = args.q.row(args.batch.first_token[block.sequence] + token) + head * head_dim;
    std::copy_n(q, head_dim, state.q + r * state.width);
    state.position[r] = args.batch.position[block.sequence] + token;
    state.max[r] = std::numeric_limits<float>::lowest();
    state.sum[r] = 0;
  }
}

void StoreOutputs(const AttentionArgs& args, const AttendBlock& block, const AttendState& state) {
  const int group = args.heads / args.cache.kv_heads;
  const int64_t head_dim = args.cache.head_dim;
  for (int r = 0; r < state.rows; ++r) {
    const int64_t token = (block.row_begin + r) / group;
    const int64_t head = block.kv_head * group + (block.row_begin + r) % group;
    float* out = args.out.row(args.batch.first_token[block.sequence] + token) + head * head_dim;
    for (int64_t i = 0; i < head_dim; ++i) out[i] = state.acc[r * state.width + i] / state.sum[r];
  }
}

void AttendBlockCpu(const AttentionArgs& args, const AttendBlock& block) {
  AttendState state;
  LoadQueries(args, block, state);
  const KvLayer& cache = args.cache;
  const int64_t page_tokens = cache.page_tokens;
  const int32_t* pages = args.batch.page_table.data() + args.batch.first_page[block.sequence];
  const int64_t head_size = page_tokens * cache.head_dim;
  const int64_t end = state.position[state.rows - 1] + 1;
  for (int64_t first = 0; first < end; first += page_tokens) {
    const int64_t page = pages[first / page_tokens];
    const int64_t tokens = std::min(page_tokens, end - first);
    const int64_t key_offset = (page * 2 * cache.kv_heads + block.kv_head) * head_size;
    const int64_t value_offset = key_offset + cache.kv_heads * head_size;
    const float* keys = HeadRows(cache, key_offset, tokens, state.width, state.keys);
    const float* values = HeadRows(cache, value_offset, tokens, state.width, state.values);
    for (int r = 0; r < state.rows; ++r) {
      const int64_t visible = std::min(tokens, state.position[r] + 1 - first);
      if (visible > 0) AddPage(state, r, {keys, values, visible, state.width});
    }
  }
  StoreOutputs(args, block, state);
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace conclave {

HWY_EXPORT(AttendBlockCpu);

void RunAttendBlock(const AttentionArgs& args, const AttendBlock& block) {
  HWY_DYNAMIC_DISPATCH(AttendBlockCpu)(args, block);
}

}  // namespace conclave
#endif
