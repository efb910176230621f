// Joins the splits of decode_attention into normalised bf16 rows: a warp for each (token, head).
// Bytes: the splits' o once, m and l twice.
#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include "kernels/cuda/launch.cuh"
#include "kernels/decode_attention/decode_launch.h"
#include "kernels/qkv_post/paged_device.cuh"

namespace conclave {
namespace {

constexpr int kThreads = 128;

__device__ __forceinline__ float WarpMax(float x) {
#pragma unroll
  for (int lane = 16; lane > 0; lane /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, lane));
  return x;
}

struct CombineArgs {
  DecodeSplits splits;
  __nv_bfloat16* out;
  int64_t out_stride;
  int32_t count;  // splits
  int32_t tokens;
  int32_t heads;
  int32_t head_dim;
};

__global__ void __launch_bounds__(kThreads) CombineKernel(const CombineArgs args) {
  GridDependencyWait();
  LaunchDependents();
  constexpr int kLaneSplits = kDecodeSplitsMax / 32;  // whose m and l a lane keeps
  const int unit = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) / 32;
  const int lane = threadIdx.x % 32;
  if (unit >= args.tokens * args.heads) return;
  const int64_t slab = int64_t{args.tokens} * args.heads;
  float m[kLaneSplits], l[kLaneSplits], top = -INFINITY;
#pragma unroll
  for (int i = 0; i < kLaneSplits; ++i) {
    const int split = lane + 32 * i;
    l[i] = split < args.count ? args.splits.l[split * slab + unit] : 0;
    m[i] = l[i] > 0 ? args.splits.m[split * slab + unit] : -INFINITY;
    top = fmaxf(top, m[i]);
  }
  top = WarpMax(top);
  float sum = 0;
#pragma unroll
  for (int i = 0; i < kLaneSplits; ++i) {
    m[i] = l[i] > 0 ? __expf(m[i] - top) : 0;  // from here on a weight
    sum += m[i] * l[i];
  }
  sum = WarpSum(sum);
  const float inverse = sum > 0 ? 1.0f / sum : 0;
  const int token = unit / args.heads, head = unit % args.heads;
  __nv_bfloat16* to = args.out + token * args.out_stride + head * args.head_dim;
  for (int first = 0; first < args.head_dim; first += 128) {
    const int column = first + lane * 4;
    float4 total = make_float4(0, 0, 0, 0);
#pragma unroll 8
    for (int split = 0; split < args.count; ++split) {
      const float mine = split < 32 ? m[0] : m[kLaneSplits - 1];
      const float weight = __shfl_sync(~0u, mine, split % 32);
      if (weight == 0 || column >= args.head_dim) continue;
      const float4 part = *reinterpret_cast<const float4*>(
          args.splits.o + (split * slab + unit) * args.head_dim + column);
      total.x = fmaf(weight, part.x, total.x), total.y = fmaf(weight, part.y, total.y);
      total.z = fmaf(weight, part.z, total.z), total.w = fmaf(weight, part.w, total.w);
    }
    if (column >= args.head_dim) continue;
    *reinterpret_cast<uint2*>(to + column) =
        make_uint2(PackBf16(total.x * inverse, total.y * inverse),
                   PackBf16(total.z * inverse, total.w * inverse));
  }
}
static_assert(kDecodeSplitsMax == 64);

}  // namespace

absl::Status LaunchDecodeCombine(const DecodeAttentionArgs& args, int32_t splits) {
  const CombineArgs combine = {args.splits,        static_cast<__nv_bfloat16*>(args.out),
                               args.out_stride,    splits,
                               args.batch.tokens,  args.heads,
                               args.cache.head_dim};
  const int units = args.batch.tokens * args.heads;
  const LaunchShape shape = {dim3((units * 32 + kThreads - 1) / kThreads), dim3(kThreads), 0,
                             args.stream, args.dependent};
  return Launch("decode_attention's combine", shape, CombineKernel, combine);
}

}  // namespace conclave
