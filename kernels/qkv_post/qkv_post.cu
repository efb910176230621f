#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/qkv_post/paged_device.cuh"
#include "kernels/qkv_post/qkv_post_launch.h"

namespace conclave {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr int kHeads = 3;  // that a group of lanes has under way

// The sequence of the block's token, -1 without one. All threads call.
__device__ int FindSequence(const GpuBatch& batch, int token) {
  __shared__ int found;
  if (threadIdx.x == 0) found = -1;
  __syncthreads();
  for (int s = threadIdx.x; s < batch.sequences; s += kThreads) {
    if (batch.first_token[s] <= token && token < batch.first_token[s + 1]) found = s;
  }
  __syncthreads();
  return found;
}

__device__ __forceinline__ float SquaresOf8(uint4 packed) {
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&packed);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 v = __bfloat1622float2(pairs[i]);
    sum = fmaf(v.x, v.x, fmaf(v.y, v.y, sum));
  }
  return sum;
}

// 1 / rms of all of q and of all of k of a row. All threads call.
__device__ float2 FullWidthScales(const QkvPostArgs& args, const __nv_bfloat16* row) {
  __shared__ float2 of_warp[kWarps];
  const int head_dim = args.cache.head_dim;
  const int q_width = args.heads * head_dim, k_width = args.cache.kv_heads * head_dim;
  float2 sums = make_float2(0, 0);
  for (int i = threadIdx.x * 8; i < q_width + k_width; i += kThreads * 8) {
    const float squares = SquaresOf8(*reinterpret_cast<const uint4*>(row + i));
    (i < q_width ? sums.x : sums.y) += squares;
  }
  sums = make_float2(WarpSum(sums.x), WarpSum(sums.y));
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = sums;
  __syncthreads();
  sums = of_warp[0];
#pragma unroll
  for (int w = 1; w < kWarps; ++w) {
    sums.x += of_warp[w].x;
    sums.y += of_warp[w].y;
  }
  return make_float2(rsqrtf(sums.x / static_cast<float>(q_width) + args.norm.epsilon),
                     rsqrtf(sums.y / static_cast<float>(k_width) + args.norm.epsilon));
}

// Four values of a head and their partners half a head further.
struct HeadPart {
  float low[4];
  float high[4];
};

__device__ __forceinline__ void Unpack(uint2 packed, float (&v)[4]) {
  const auto* pairs = reinterpret_cast<const __nv_bfloat162*>(&packed);
  const float2 a = __bfloat1622float2(pairs[0]), b = __bfloat1622float2(pairs[1]);
  v[0] = a.x, v[1] = a.y, v[2] = b.x, v[3] = b.y;
}
__device__ __forceinline__ void StoreFour(__nv_bfloat16* to, const float (&v)[4]) {
  *reinterpret_cast<uint2*>(to) = make_uint2(PackBf16(v[0], v[1]), PackBf16(v[2], v[3]));
}
__device__ __forceinline__ void Scale(HeadPart& part, float scale, const float* weights, int half) {
  const float4 low = *reinterpret_cast<const float4*>(weights);
  const float4 high = *reinterpret_cast<const float4*>(weights + half);
  part.low[0] *= scale * low.x, part.low[1] *= scale * low.y;
  part.low[2] *= scale * low.z, part.low[3] *= scale * low.w;
  part.high[0] *= scale * high.x, part.high[1] *= scale * high.y;
  part.high[2] *= scale * high.z, part.high[3] *= scale * high.w;
}

// A token of the batch, and where a lane stands in its heads: elements i..i+3 and half + i...
struct TokenWork {
  const __nv_bfloat16* row;
  __nv_bfloat16* q;
  __nv_bfloat16* cache;  // row of K of its slot, kv head 0
  const float* angles;   // or null
  float2 full_scales;
  int i;
};

__device__ __forceinline__ void FinishHead(const QkvPostArgs& args, const TokenWork& work,
                                           int group_lanes, int head, HeadPart part) {
  const int head_dim = args.cache.head_dim, half = head_dim / 2, kv_heads = args.cache.kv_heads;
  const bool is_q = head < args.heads, is_v = head >= args.heads + kv_heads;
  const bool active = work.i < half && head < args.heads + 2 * kv_heads;
  const int kv_head = is_v ? head - args.heads - kv_heads : head - args.heads;
  if (args.norm.kind == GpuQkNorm::kPerHead) {
    float squares = 0;
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      squares = fmaf(part.low[e], part.low[e], fmaf(part.high[e], part.high[e], squares));
    }
    for (int lane = group_lanes / 2; lane > 0; lane /= 2) {
      squares += __shfl_xor_sync(~0u, squares, lane);
    }
    const float scale = rsqrtf(squares / static_cast<float>(head_dim) + args.norm.epsilon);
    if (active && !is_v) Scale(part, scale, (is_q ? args.norm.q : args.norm.k) + work.i, half);
  }
  if (!active) return;
  if (args.norm.kind == GpuQkNorm::kFullWidth && !is_v) {
    const float* weights = is_q ? args.norm.q + head * head_dim : args.norm.k + kv_head * head_dim;
    Scale(part, is_q ? work.full_scales.x : work.full_scales.y, weights + work.i, half);
  }
  if (work.angles != nullptr && !is_v) {
    const auto* angles = reinterpret_cast<const float4*>(work.angles + 2 * work.i);
    const float4 first = angles[0], second = angles[1];
    RotatePair(part.low[0], part.high[0], make_float2(first.x, first.y));
    RotatePair(part.low[1], part.high[1], make_float2(first.z, first.w));
    RotatePair(part.low[2], part.high[2], make_float2(second.x, second.y));
    RotatePair(part.low[3], part.high[3], make_float2(second.z, second.w));
  }
  const int64_t page_row =
      int64_t{kv_head} * args.cache.page_tokens + (is_v ? VRowOffset(args.cache) : 0);
  __nv_bfloat16* to = is_q ? work.q + head * head_dim : work.cache + page_row * head_dim;
  StoreFour(to + work.i, part.low);
  StoreFour(to + half + work.i, part.high);
}

// group_lanes: a power of two, the lanes of one head.
__global__ void __launch_bounds__(kThreads)
    QkvPostKernel(const QkvPostArgs args, const int group_lanes) {
  GridDependencyWait();
  LaunchDependents();
  const int token = blockIdx.x;
  const int sequence = FindSequence(args.batch, token);
  if (sequence < 0) return;
  const int position = args.batch.position[sequence] + token - args.batch.first_token[sequence];
  const int head_dim = args.cache.head_dim, half = head_dim / 2;
  const int cache_row =
      PositionRow(args.cache, args.batch.page_table + args.batch.first_page[sequence], 0, position);
  TokenWork work;
  work.row = static_cast<const __nv_bfloat16*>(args.qkv) + token * args.qkv_stride;
  work.q = static_cast<__nv_bfloat16*>(args.q) + token * args.q_stride;
  work.cache = static_cast<__nv_bfloat16*>(args.cache.data) + int64_t{cache_row} * head_dim;
  work.angles = args.rope == nullptr ? nullptr : args.rope + int64_t{position} * head_dim;
  work.i = static_cast<int>(threadIdx.x) % group_lanes * 4;
  work.full_scales = make_float2(1, 1);
  if (args.norm.kind == GpuQkNorm::kFullWidth) work.full_scales = FullWidthScales(args, work.row);

  const int groups = kThreads / group_lanes;
  const int heads = args.heads + 2 * args.cache.kv_heads;
  for (int base = 0; base < heads; base += groups * kHeads) {
    const int first = base + static_cast<int>(threadIdx.x) / group_lanes;
    uint2 low[kHeads], high[kHeads];
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      const int head = first + h * groups;
      low[h] = high[h] = make_uint2(0, 0);
      if (head < heads && work.i < half) {
        const __nv_bfloat16* from = work.row + head * head_dim + work.i;
        low[h] = *reinterpret_cast<const uint2*>(from);
        high[h] = *reinterpret_cast<const uint2*>(from + half);
      }
    }
#pragma unroll
    for (int h = 0; h < kHeads; ++h) {
      HeadPart part;
      Unpack(low[h], part.low);
      Unpack(high[h], part.high);
      FinishHead(args, work, group_lanes, first + h * groups, part);
    }
  }
}

}  // namespace

absl::Status LaunchQkvPost(const QkvPostArgs& args) {
  int group_lanes = 1;
  while (group_lanes * 8 < args.cache.head_dim) group_lanes *= 2;
  const LaunchShape shape = {dim3(args.batch.tokens), dim3(kThreads), 0, args.stream,
                             args.dependent};
  return Launch("qkv_post", shape, QkvPostKernel, args, group_lanes);
}

}  // namespace conclave
