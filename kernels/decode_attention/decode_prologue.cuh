// The first part of decode_attention: a block's query heads, and for the block that owns the new
// token its K and V, from the QKV product into shared memory as bf16. Device code only; all threads
// of the block call.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/decode_attention/decode_launch.h"
#include "kernels/qkv_post/paged_device.cuh"

namespace conclave {

inline constexpr int kDecodeThreads = kDecodeWarps * 32;

// A block's work.
struct DecodeWork {
  int token;
  int kv_head;
  int split;
  int first_head;  // of q
  int rows;        // its query heads
  int position;    // of the new token; -1: idle
  int begin;       // context of this split: [begin, end), the new token included
  int end;
  bool writes;  // K and V of the new token go to the cache
  const int32_t* pages;

  __device__ __forceinline__ bool owns_new_token() const { return end == position + 1; }
};

__device__ inline DecodeWork FindDecodeWork(const DecodeAttentionArgs& args,
                                            const DecodeGrid& grid) {
  DecodeWork work;
  int block = blockIdx.x;
  work.split = block % grid.splits;
  block /= grid.splits;
  const int part = block % grid.head_blocks;
  block /= grid.head_blocks;
  work.kv_head = block % args.cache.kv_heads;
  work.token = block / args.cache.kv_heads;
  const int group = args.heads / args.cache.kv_heads;
  work.first_head = work.kv_head * group + part * kDecodeGroupRows;
  work.rows = min(group - part * kDecodeGroupRows, kDecodeGroupRows);
  // Past L1, which may hold what an earlier step left.
  work.position = __ldcg(args.batch.position + work.token);
  work.pages = args.batch.page_table + __ldcg(args.batch.first_page + work.token);
  const int tiles = (work.position + kDecodeTileTokens) / kDecodeTileTokens;
  const int share = (tiles + grid.splits - 1) / grid.splits;
  const int split_tokens =
      (share + kDecodeWarps - 1) / kDecodeWarps * kDecodeWarps * kDecodeTileTokens;
  work.begin = work.split * split_tokens;
  work.end = min(work.begin + split_tokens, work.position + 1);
  work.writes = part == 0;
  return work;
}

// Two neighbouring elements of a token's row, summed over the partials.
__device__ __forceinline__ float2 LoadPair(const DecodeQkv& qkv, int64_t at, int split) {
  if (qkv.rows != nullptr) {
    return __bfloat1622float2(
        *reinterpret_cast<const __nv_bfloat162*>(static_cast<const __nv_bfloat16*>(qkv.rows) + at));
  }
  return __ldcg(reinterpret_cast<const float2*>(qkv.partials + split * qkv.slab_stride + at));
}

// 1 / rms over `count` elements of the row from `first` on. `scratch` [kDecodeWarps].
__device__ inline float RowScale(const DecodeAttentionArgs& args, int64_t first, int count,
                                 float* scratch) {
  const int splits = args.qkv.rows != nullptr ? 1 : args.qkv.splits;
  float squares = 0;
#pragma unroll 4
  for (int i = threadIdx.x * 2; i < count; i += kDecodeThreads * 2) {
    float2 sum = make_float2(0, 0);
    for (int s = 0; s < splits; ++s) {
      const float2 v = LoadPair(args.qkv, first + i, s);
      sum.x += v.x;
      sum.y += v.y;
    }
    squares = fmaf(sum.x, sum.x, fmaf(sum.y, sum.y, squares));
  }
  squares = WarpSum(squares);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = squares;
  __syncthreads();
  squares = scratch[0];
#pragma unroll
  for (int w = 1; w < kDecodeWarps; ++w) squares += scratch[w];
  return rsqrtf(squares / static_cast<float>(count) + args.norm.epsilon);
}

// Where the prologue writes, all in shared memory.
struct DecodeRows {
  uint8_t* q;  // [16] rows of row_bytes
  int row_bytes;
  __nv_bfloat16* k;  // [head_dim] of the new token
  __nv_bfloat16* v;
  float* scratch;  // [kDecodeWarps]
};

// Elements of a head that a lane holds: pairs from 2 * lane on, and half a head further.
template <int kPairs>
struct DecodeHeadPart {
  float2 low[kPairs];
  float2 high[kPairs];
};

// A head of the row: query heads of the block, then k, then v.
template <int kPairs>
struct DecodeHead {
  bool is_v;
  int column;                      // of the row
  __nv_bfloat16* to;               // shared memory
  __nv_bfloat16* cache;            // or null
  DecodeHeadPart<kPairs> weights;  // of its norm
};

// Everything of head `task` that does not depend on the product.
template <int kPairs>
__device__ __forceinline__ DecodeHead<kPairs> DescribeHead(const DecodeAttentionArgs& args,
                                                           const DecodeWork& work,
                                                           const DecodeRows& rows, int task) {
  const int head_dim = args.cache.head_dim, half = head_dim / 2;
  const bool full = args.norm.kind == GpuQkNorm::kFullWidth;
  DecodeHead<kPairs> head;
  head.cache = nullptr;
  head.is_v = task > work.rows;
  const float* weights = nullptr;
  if (task < work.rows) {
    head.column = (work.first_head + task) * head_dim;
    head.to = reinterpret_cast<__nv_bfloat16*>(rows.q + task * rows.row_bytes);
    weights = args.norm.q + (full ? head.column : 0);
  } else {
    const int kv_heads = args.cache.kv_heads;
    head.column = (args.heads + work.kv_head + (head.is_v ? kv_heads : 0)) * head_dim;
    head.to = head.is_v ? rows.v : rows.k;
    weights = args.norm.k + (full ? work.kv_head * head_dim : 0);
    if (work.writes) {
      const int row = PositionRow(args.cache, work.pages, work.kv_head, work.position) +
                      (head.is_v ? VRowOffset(args.cache) : 0);
      head.cache = static_cast<__nv_bfloat16*>(args.cache.data) + int64_t{row} * head_dim;
    }
  }
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = 2 * (threadIdx.x % 32) + 64 * p;
    head.weights.low[p] = head.weights.high[p] = make_float2(1, 1);
    if (i >= half || head.is_v || args.norm.kind == GpuQkNorm::kNone) continue;
    head.weights.low[p] = *reinterpret_cast<const float2*>(weights + i);
    head.weights.high[p] = *reinterpret_cast<const float2*>(weights + half + i);
  }
  return head;
}

// Norm with `scale` (of the full width) or of the head, rotation by `angles` (cosine and sine of
// each pair), and the stores.
template <int kPairs>
__device__ __forceinline__ void FinishHead(const DecodeAttentionArgs& args,
                                           const DecodeHead<kPairs>& head,
                                           const float4 (&angles)[kPairs], float scale,
                                           const DecodeHeadPart<kPairs>& part) {
  const int half = args.cache.head_dim / 2;
  if (args.norm.kind == GpuQkNorm::kPerHead) {
    float squares = 0;
#pragma unroll
    for (int p = 0; p < kPairs; ++p) {
      squares = fmaf(part.low[p].x, part.low[p].x, fmaf(part.low[p].y, part.low[p].y, squares));
      squares = fmaf(part.high[p].x, part.high[p].x, fmaf(part.high[p].y, part.high[p].y, squares));
    }
    scale = rsqrtf(WarpSum(squares) / static_cast<float>(2 * half) + args.norm.epsilon);
  }
  if (head.is_v) scale = 1;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = 2 * (threadIdx.x % 32) + 64 * p;
    if (i >= half) continue;
    float2 low = part.low[p], high = part.high[p];
    low.x *= scale * head.weights.low[p].x, low.y *= scale * head.weights.low[p].y;
    high.x *= scale * head.weights.high[p].x, high.y *= scale * head.weights.high[p].y;
    if (!head.is_v) {
      RotatePair(low.x, high.x, make_float2(angles[p].x, angles[p].y));
      RotatePair(low.y, high.y, make_float2(angles[p].z, angles[p].w));
    }
    const uint32_t packed_low = PackBf16(low.x, low.y), packed_high = PackBf16(high.x, high.y);
    *reinterpret_cast<uint32_t*>(head.to + i) = packed_low;
    *reinterpret_cast<uint32_t*>(head.to + half + i) = packed_high;
    if (head.cache == nullptr) continue;
    *reinterpret_cast<uint32_t*>(head.cache + i) = packed_low;
    *reinterpret_cast<uint32_t*>(head.cache + half + i) = packed_high;
  }
}

template <int kPairs>
__device__ __forceinline__ void AddPartial(const DecodeAttentionArgs& args, int64_t at, int split,
                                           DecodeHeadPart<kPairs>& part) {
  const int half = args.cache.head_dim / 2;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = 2 * (threadIdx.x % 32) + 64 * p;
    if (i >= half) continue;
    const float2 low = LoadPair(args.qkv, at + i, split);
    const float2 high = LoadPair(args.qkv, at + half + i, split);
    part.low[p].x += low.x, part.low[p].y += low.y;
    part.high[p].x += high.x, part.high[p].y += high.y;
  }
}

template <int kPairs>
__device__ __forceinline__ void LoadAngles(const DecodeAttentionArgs& args, int position,
                                           float4 (&angles)[kPairs]) {
  const int half = args.cache.head_dim / 2;
#pragma unroll
  for (int p = 0; p < kPairs; ++p) {
    const int i = 2 * (threadIdx.x % 32) + 64 * p;
    angles[p] = make_float4(1, 0, 1, 0);
    if (args.rope == nullptr || i >= half) continue;
    angles[p] = *reinterpret_cast<const float4*>(args.rope + int64_t{position} * 2 * half + 2 * i);
  }
}

// Waits for the product itself if nobody has yet (history_ready_early), after it has asked for what
// it needs besides. kPairs: pairs of a lane in half a head, 1 up to head_dim 128.
template <int kPairs>
__device__ __forceinline__ void PrepareRows(const DecodeAttentionArgs& args, const DecodeWork& work,
                                            const DecodeRows& rows) {
  constexpr int kHeads = 3;  // of a warp under way
  const int head_dim = args.cache.head_dim, warp = static_cast<int>(threadIdx.x) / 32;
  const int64_t row = work.token * args.qkv.row_stride;
  const int tasks = work.rows + (work.owns_new_token() ? 2 : 0);
  const int splits = args.qkv.rows != nullptr ? 1 : args.qkv.splits;
  float q_scale = 1, k_scale = 1;
  float4 angles[kPairs];
  LoadAngles<kPairs>(args, work.position, angles);
  for (int base = 0; base < tasks; base += kDecodeWarps * kHeads) {
    DecodeHead<kPairs> heads[kHeads];
    DecodeHeadPart<kPairs> parts[kHeads] = {};
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int task = min(base + h * kDecodeWarps + warp, tasks - 1);
      heads[h] = DescribeHead<kPairs>(args, work, rows, task);
    }
    if (base == 0) {
      if (args.history_ready_early) {
        GridDependencyWait();
        LaunchDependents();
      }
      if (args.norm.kind == GpuQkNorm::kFullWidth) {
        const int q_width = args.heads * head_dim;
        q_scale = RowScale(args, row, q_width, rows.scratch);
        if (work.owns_new_token()) {
          k_scale = RowScale(args, row + q_width, args.cache.kv_heads * head_dim, rows.scratch);
        }
      }
    }
#pragma unroll 2
    for (int s = 0; s < splits; ++s) {
#pragma unroll
      for (int h = 0; h < kHeads; ++h) {
        if (base + h * kDecodeWarps + warp < tasks) {
          AddPartial<kPairs>(args, row + heads[h].column, s, parts[h]);
        }
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int task = base + h * kDecodeWarps + warp;
      if (task >= tasks) continue;
      FinishHead<kPairs>(args, heads[h], angles, task < work.rows ? q_scale : k_scale, parts[h]);
    }
  }
}

}  // namespace conclave
