// The attention of token_step: a block takes one query head and one split of the context; eight
// lanes take a position, and a warp four at once. Cached keys and values do not depend on the
// step, so the first of them are loaded before the wait for q. Every block of a head makes q for
// itself; those of the last split also make the new key and value, and one of a group writes them
// to their page. Device code only.
#pragma once

#include <cstdint>

#include "kernels/token_step/token_gemv.cuh"

namespace conclave {

inline constexpr float kTokenLow = -1e30f;  // below any score; finite, so that 0 weights stay 0

template <int kHeadDim>
struct TokenKv {
  static constexpr int kChunks = kHeadDim / 64;
  uint4 k[kChunks], v[kChunks];
};

// What a lane has summed up: the 8 dimensions from 8 * (lane % 8) on of each 64.
template <int kHeadDim>
struct TokenAttended {
  float max = kTokenLow, sum = 0;
  float o[kHeadDim / 8] = {};
};

struct TokenSplit {
  int head, kv_head, split;
  int begin, end;  // cached positions
  bool last;       // has the new token
};

__device__ __forceinline__ TokenSplit MakeSplit(int item, int position) {
  const TokenLaunch& launch = Shared().launch;
  const int splits = launch.plan.attention_splits;
  TokenSplit split;
  split.head = item / splits;
  split.kv_head = split.head / (launch.args.shape.heads / launch.args.shape.kv_heads);
  split.split = item - split.head * splits;
  const int each = (position + splits - 1) / splits;
  split.begin = min(split.split * each, position);
  split.end = min(split.begin + each, position);
  split.last = split.split == splits - 1;
  return split;
}

// The row of K of a position; V's is VOffset further.
template <int kHeadDim>
__device__ __forceinline__ uint4* KeyRow(const GpuKvLayer& cache, int kv_head, int position) {
  const TokenLaunch& launch = Shared().launch;
  const int shift = launch.plan.page_shift;
  const int page = __ldg(launch.args.page_table + (position >> shift));
  const int64_t row = (((int64_t{page} * 2 * cache.kv_heads + kv_head) << shift) +
                       (position & ((1 << shift) - 1)));
  return static_cast<uint4*>(cache.data) + row * (kHeadDim / 8);
}
template <int kHeadDim>
__device__ __forceinline__ int64_t VOffset(const GpuKvLayer& cache) {
  return int64_t{cache.kv_heads} * cache.page_tokens * (kHeadDim / 8);
}

// Positions of a warp's pass: those of its four groups of lanes.
__device__ __forceinline__ int PositionOf(const TokenSplit& split, int pass) {
  return split.begin + pass * (kTokenWarps * 4) + threadIdx.x / 8;
}

template <int kHeadDim>
__device__ __forceinline__ void LoadKv(const GpuKvLayer& cache, const TokenSplit& split, int pass,
                                       TokenKv<kHeadDim>& kv) {
  const int position = PositionOf(split, pass);
#pragma unroll
  for (int c = 0; c < TokenKv<kHeadDim>::kChunks; ++c) {
    kv.k[c] = kv.v[c] = make_uint4(0, 0, 0, 0);
  }
  if (position >= split.end) return;
  const uint4* k = KeyRow<kHeadDim>(cache, split.kv_head, position) + threadIdx.x % 8;
  const uint4* v = k + VOffset<kHeadDim>(cache);
#pragma unroll
  for (int c = 0; c < TokenKv<kHeadDim>::kChunks; ++c) {
    kv.k[c] = __ldcg(k + c * 8);
    kv.v[c] = __ldcg(v + c * 8);
  }
}

// 2^x, 0 far below 0.
__device__ __forceinline__ float TokenExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ void Widen8(const uint4& bits, float (&to)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    to[2 * i] = __uint_as_float(words[i] << 16);
    to[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}

template <int kHeadDim>
__device__ __forceinline__ void Attend(const TokenKv<kHeadDim>& kv,
                                       const float (&q)[kHeadDim / 8], bool valid,
                                       TokenAttended<kHeadDim>& attended) {
  float score = 0;
#pragma unroll
  for (int c = 0; c < TokenKv<kHeadDim>::kChunks; ++c) {
    float k[8];
    Widen8(kv.k[c], k);
#pragma unroll
    for (int i = 0; i < 8; ++i) score += q[c * 8 + i] * k[i];
  }
#pragma unroll
  for (int lane = 1; lane < 8; lane *= 2) score += __shfl_xor_sync(~0u, score, lane);
  const float max = valid ? fmaxf(attended.max, score) : attended.max;
  const float keep = TokenExp2(attended.max - max);
  const float weight = valid ? TokenExp2(score - max) : 0.0f;
  attended.max = max;
  attended.sum = attended.sum * keep + weight;
#pragma unroll
  for (int c = 0; c < TokenKv<kHeadDim>::kChunks; ++c) {
    float v[8];
    Widen8(kv.v[c], v);
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      attended.o[c * 8 + i] = attended.o[c * 8 + i] * keep + weight * v[i];
    }
  }
}

// In the place of x: q and the new key, then sums of the warps and of the new token.
template <int kHeadDim>
struct TokenAttentionShared {
  static constexpr int kParts = kTokenWarps + 1;
  float q[kHeadDim], k[kHeadDim];
  float max[kParts], sum[kParts];
  float o[kParts][kHeadDim];
};
template <int kHeadDim>
__device__ __forceinline__ TokenAttentionShared<kHeadDim>& AttentionShared() {
  return *reinterpret_cast<TokenAttentionShared<kHeadDim>*>(
      SharedAt(Shared().launch.plan.shared_x));
}

// Sums of squares over all heads of q and of k, for TokenQkNorm::kFullWidth; by all warps.
__device__ __noinline__ inline void FullWidthSquares(const float* qkv) {
  const TokenLaunch& launch = Shared().launch;
  const TokenShape& shape = launch.args.shape;
  const int q_end = shape.heads * shape.head_dim;
  const int k_end = q_end + shape.kv_heads * shape.head_dim;
  const int outputs = k_end + shape.kv_heads * shape.head_dim;
  float squares[2] = {0, 0};
#pragma unroll 1
  for (int i = threadIdx.x * 4; i < k_end; i += kTokenThreads * 4) {
    float4 v = __ldcg(reinterpret_cast<const float4*>(qkv + i));
#pragma unroll 1
    for (int slab = 1; slab < launch.plan.qkv_splits; ++slab) {
      const float4 more = __ldcg(reinterpret_cast<const float4*>(qkv + slab * outputs + i));
      v = make_float4(v.x + more.x, v.y + more.y, v.z + more.z, v.w + more.w);
    }
    const float sum = v.x * v.x + v.y * v.y + v.z * v.z + v.w * v.w;
    if (i < q_end) {
      squares[0] += sum;
    } else {
      squares[1] += sum;
    }
  }
  for (int which = 0; which < 2; ++which) {
    const float sum = TokenWarpSum(squares[which]);
    if (threadIdx.x % 32 == 0) Shared().head_squares[which][threadIdx.x / 32] = sum;
  }
  TokenSync();
}

// What a lane of warps 0 (q), 1 (k) and 2 (v) needs of memory beside qkv, loaded before the wait
// for it: dimensions lane + 32 i.
template <int kHeadDim>
struct TokenHeadLane {
  static constexpr int kPer = kHeadDim / 32;
  float norm[kPer];
  float2 angle[kPer / 2];

  __device__ __forceinline__ void Load(const TokenLayer& layer, const TokenSplit& split,
                                       int position) {
    const int which = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (which > 1) return;
    const TokenStepArgs& args = Shared().launch.args;
    const int first = args.shape.qk_norm != TokenQkNorm::kFullWidth ? 0
                      : which == 0 ? split.head * kHeadDim : split.kv_head * kHeadDim;
    const float* weights = (which == 0 ? layer.q_norm : layer.k_norm) + first + lane;
    const float2* angles = reinterpret_cast<const float2*>(args.rope) +
                           int64_t{position} * (kHeadDim / 2) + lane;
#pragma unroll
    for (int i = 0; i < kPer; ++i) {
      norm[i] = args.shape.qk_norm == TokenQkNorm::kNone ? 1.0f : __ldg(weights + i * 32);
    }
#pragma unroll
    for (int i = 0; i < kPer / 2; ++i) angle[i] = __ldg(angles + i * 32);
  }
};

// The block's q, and of the last split the new key and value: normed, rotated, k and v rounded as
// in the cache, where one head of a group writes them. q also has the softmax's scale, to base 2.
template <int kHeadDim>
__device__ __forceinline__ void MakeHead(const TokenLayer& layer, const TokenSplit& split,
                                         int position, const TokenHeadLane<kHeadDim>& mine,
                                         const float* qkv) {
  constexpr int kPer = kHeadDim / 32;
  const TokenLaunch& launch = Shared().launch;
  const TokenShape& shape = launch.args.shape;
  const int which = threadIdx.x / 32, lane = threadIdx.x % 32;
  auto& block = AttentionShared<kHeadDim>();
  const int outputs = (shape.heads + 2 * shape.kv_heads) * kHeadDim;
  const int head = which == 0 ? split.head
                              : shape.heads + split.kv_head + (which - 1) * shape.kv_heads;
  const float* from = qkv + head * kHeadDim + lane;
  float v[kPer];
#pragma unroll
  for (int i = 0; i < kPer; ++i) v[i] = __ldcg(from + i * 32);
#pragma unroll 1
  for (int slab = 1; slab < launch.plan.qkv_splits; ++slab) {
#pragma unroll
    for (int i = 0; i < kPer; ++i) v[i] += __ldcg(from + slab * outputs + i * 32);
  }
  if (which < 2) {
    if (shape.qk_norm != TokenQkNorm::kNone) {
      float squares = 0;
      int count = kHeadDim;
      if (shape.qk_norm == TokenQkNorm::kPerHead) {
#pragma unroll
        for (int i = 0; i < kPer; ++i) squares += v[i] * v[i];
      } else {
        count *= which == 0 ? shape.heads : shape.kv_heads;
        squares = lane < kTokenWarps ? Shared().head_squares[which][lane] : 0;
      }
      squares = TokenWarpSum(squares);
      const float scale = rsqrtf(__fdividef(squares, count) + shape.epsilon);
#pragma unroll
      for (int i = 0; i < kPer; ++i) v[i] *= scale * mine.norm[i];
    }
#pragma unroll
    for (int i = 0; i < kPer / 2; ++i) {
      const float a = v[i], b = v[i + kPer / 2];
      v[i] = a * mine.angle[i].x - b * mine.angle[i].y;
      v[i + kPer / 2] = b * mine.angle[i].x + a * mine.angle[i].y;
    }
  }
  if (which == 0) {
    const float scale = 1.4426950408889634f * rsqrtf(static_cast<float>(kHeadDim));
#pragma unroll
    for (int i = 0; i < kPer; ++i) block.q[i * 32 + lane] = v[i] * scale;
    return;
  }
  float* to = which == 1 ? block.k : block.o[kTokenWarps];
  const GpuKvLayer& cache = layer.cache;
  auto* row = reinterpret_cast<__nv_bfloat16*>(
      KeyRow<kHeadDim>(cache, split.kv_head, position) +
      (which == 2 ? VOffset<kHeadDim>(cache) : 0));
  const bool writes = split.head % (shape.heads / shape.kv_heads) == 0;
#pragma unroll
  for (int i = 0; i < kPer; ++i) {
    const __nv_bfloat16 rounded = __float2bfloat16_rn(v[i]);
    to[i * 32 + lane] = __bfloat162float(rounded);
    if (writes) row[i * 32 + lane] = rounded;
  }
}

// The sums of a warp's groups of lanes; the last warp adds the new token's as those of one more.
template <int kHeadDim>
__device__ __forceinline__ void PublishAttended(const TokenSplit& split,
                                                const TokenAttended<kHeadDim>& mine) {
  auto& block = AttentionShared<kHeadDim>();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float max = fmaxf(mine.max, __shfl_xor_sync(~0u, mine.max, 8));
  max = fmaxf(max, __shfl_xor_sync(~0u, max, 16));
  const float keep = TokenExp2(mine.max - max);
  float sum = mine.sum * keep;
  sum += __shfl_xor_sync(~0u, sum, 8);
  sum += __shfl_xor_sync(~0u, sum, 16);
#pragma unroll
  for (int i = 0; i < kHeadDim / 8; ++i) {
    float v = mine.o[i] * keep;
    v += __shfl_xor_sync(~0u, v, 8);
    v += __shfl_xor_sync(~0u, v, 16);
    if (lane < 8) block.o[warp][i / 8 * 64 + lane * 8 + i % 8] = v;
  }
  if (lane == 0) {
    block.max[warp] = max;
    block.sum[warp] = sum;
  }
  if (warp < kTokenWarps - 1) return;
  float score = 0;
  if (split.last) {
    for (int i = lane; i < kHeadDim; i += 32) score += block.q[i] * block.k[i];
    score = TokenWarpSum(score);
  }
  if (lane == 0) {
    block.max[kTokenWarps] = split.last ? score : kTokenLow;
    block.sum[kTokenWarps] = split.last ? 1 : 0;
  }
}

// A thread a dimension writes the split's sums.
template <int kHeadDim>
__device__ __forceinline__ void MergeAttended(const TokenSplit& split, float* o, float2* o_max) {
  const auto& block = AttentionShared<kHeadDim>();
  if (threadIdx.x >= kHeadDim) return;
  constexpr int kParts = TokenAttentionShared<kHeadDim>::kParts;
  float largest = kTokenLow;
#pragma unroll
  for (int w = 0; w < kParts; ++w) largest = fmaxf(largest, block.max[w]);
  float total = 0, value = 0;
#pragma unroll
  for (int w = 0; w < kParts; ++w) {
    const float scale = TokenExp2(block.max[w] - largest);
    total += block.sum[w] * scale;
    // What stands for a token that is not there may be anything.
    value += w < kTokenWarps || split.last ? block.o[w][threadIdx.x] * scale : 0.0f;
  }
  const int64_t place = int64_t{split.split} * Shared().launch.args.shape.heads + split.head;
  o[place * kHeadDim + threadIdx.x] = value;
  if (threadIdx.x == 0) o_max[place] = make_float2(largest, total);
}

// All items of the block; `target` is the grid's when qkv is there.
template <int kHeadDim>
__device__ __forceinline__ void AttendItems(const TokenLayer& layer, int position,
                                            unsigned target) {
  const TokenLaunch& launch = Shared().launch;
  uint8_t* workspace = static_cast<uint8_t*>(launch.args.workspace);
  const float* qkv = reinterpret_cast<const float*>(workspace + launch.plan.qkv);
  const int items = launch.args.shape.heads * launch.plan.attention_splits;
  bool waited = false;
#pragma unroll 1
  for (int item = blockIdx.x; item < items; item += gridDim.x) {
    const TokenSplit split = MakeSplit(item, position);
    TokenKv<kHeadDim> first, second;
    LoadKv<kHeadDim>(layer.cache, split, 0, first);
    LoadKv<kHeadDim>(layer.cache, split, 1, second);
    TokenHeadLane<kHeadDim> head;
    head.Load(layer, split, position);
    TOKEN_STAMP(7);
    if (!waited) {
      GridWait(reinterpret_cast<const unsigned*>(workspace), target);
      if (launch.args.shape.qk_norm == TokenQkNorm::kFullWidth) FullWidthSquares(qkv);
      waited = true;
      TOKEN_STAMP(8);
    } else {
      TokenSync();
    }
    if (threadIdx.x < (split.last ? 96 : 32)) {
      MakeHead<kHeadDim>(layer, split, position, head, qkv);
    }
    TOKEN_STAMP(9);
    TokenSync();
    TOKEN_STAMP(10);
    const int lane = threadIdx.x % 8;
    float q[kHeadDim / 8];
#pragma unroll
    for (int i = 0; i < kHeadDim / 8; ++i) {
      q[i] = AttentionShared<kHeadDim>().q[i / 8 * 64 + lane * 8 + i % 8];
    }
    TokenAttended<kHeadDim> attended;
    const int passes = (split.end - split.begin + kTokenWarps * 4 - 1) / (kTokenWarps * 4);
#pragma unroll 1
    for (int pass = 0; pass < passes; pass += 2) {
      Attend<kHeadDim>(first, q, PositionOf(split, pass) < split.end, attended);
      if (pass + 2 < passes) LoadKv<kHeadDim>(layer.cache, split, pass + 2, first);
      Attend<kHeadDim>(second, q, PositionOf(split, pass + 1) < split.end, attended);
      if (pass + 3 < passes) LoadKv<kHeadDim>(layer.cache, split, pass + 3, second);
    }
    TOKEN_STAMP(11);
    PublishAttended<kHeadDim>(split, attended);
    TokenSync();
    TOKEN_STAMP(12);
    MergeAttended<kHeadDim>(split, reinterpret_cast<float*>(workspace + launch.plan.o),
                            reinterpret_cast<float2*>(workspace + launch.plan.o_max));
  }
  if (!waited) GridWait(reinterpret_cast<const unsigned*>(workspace), target);
}

// x of the o-projection: the splits' sums together; a thread takes eight dimensions of a head.
// TokenSync follows.
template <int kHeadDim>
__device__ __forceinline__ void StageAttended(uint32_t* x) {
  constexpr int kTogether = 4;  // splits loaded at once
  const TokenLaunch& launch = Shared().launch;
  const uint8_t* workspace = static_cast<const uint8_t*>(launch.args.workspace);
  const int heads = launch.args.shape.heads;
  const int splits = launch.plan.attention_splits;
#pragma unroll 1
  for (int k = threadIdx.x * 8; k < heads * kHeadDim; k += kTokenThreads * 8) {
    const float2* o_max =
        reinterpret_cast<const float2*>(workspace + launch.plan.o_max) + k / kHeadDim;
    const float4* o = reinterpret_cast<const float4*>(workspace + launch.plan.o) + k / 4;
    float largest = kTokenLow, total = 0;
    float sums[8] = {};
#pragma unroll 1
    for (int first = 0; first < splits; first += kTogether) {
      float2 m[kTogether];
      float4 v[kTogether][2];
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const bool real = first + i < splits;
        const int split = real ? first + i : first;
        m[i] = __ldcg(o_max + split * heads);
        v[i][0] = __ldcg(o + int64_t{split} * heads * (kHeadDim / 4));
        v[i][1] = __ldcg(o + int64_t{split} * heads * (kHeadDim / 4) + 1);
        if (!real) m[i] = make_float2(kTokenLow, 0);
      }
      float max = largest;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) max = fmaxf(max, m[i].x);
      const float keep = TokenExp2(largest - max);
      largest = max;
      total *= keep;
#pragma unroll
      for (int j = 0; j < 8; ++j) sums[j] *= keep;
#pragma unroll
      for (int i = 0; i < kTogether; ++i) {
        const float weight = TokenExp2(m[i].x - max);
        total += m[i].y * weight;
        sums[0] += v[i][0].x * weight;
        sums[1] += v[i][0].y * weight;
        sums[2] += v[i][0].z * weight;
        sums[3] += v[i][0].w * weight;
        sums[4] += v[i][1].x * weight;
        sums[5] += v[i][1].y * weight;
        sums[6] += v[i][1].z * weight;
        sums[7] += v[i][1].w * weight;
      }
    }
    const float scale = __fdividef(1.0f, total);
    StoreX(x, k, make_float4(sums[0] * scale, sums[1] * scale, sums[2] * scale, sums[3] * scale));
    StoreX(x, k + 4,
           make_float4(sums[4] * scale, sums[5] * scale, sums[6] * scale, sums[7] * scale));
  }
}

}  // namespace conclave
