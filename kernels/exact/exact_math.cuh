// The arithmetic that exact kernels share: sums in the fixed trees, the exponentials of the CPU
// kernels, conversions of number formats. Every operation is an explicitly rounded one, so that the
// compiler fuses nothing on its own. Device code only; pure.
#pragma once

#include <cuda_fp16.h>

#include <cstdint>

#include "comm/base/dtype.h"

namespace conclave::exact {

inline constexpr float kLowest = -3.402823466e+38f;

// Sum over `slices` (1, 2, 4 or 8) parts at p[s * stride], in the tree of comm/base/reduction.h.
__device__ __forceinline__ float TreeOfParts(const float* p, int stride, int slices) {
  const auto pair = [&](int s) { return __fadd_rn(p[s * stride], p[(s + 1) * stride]); };
  if (slices == 1) return p[0];
  if (slices == 2) return pair(0);
  const float low = __fadd_rn(pair(0), pair(2));
  if (slices == 4) return low;
  return __fadd_rn(low, __fadd_rn(pair(4), pair(6)));
}

// Sum of the sixteen lanes of a half-warp (l with l + 8, then 4, 2, 1); all of them get it. The
// whole warp calls.
__device__ __forceinline__ float SumOfLanes16(float value) {
#pragma unroll
  for (int step = 8; step >= 1; step /= 2) {
    value = __fadd_rn(value, __shfl_xor_sync(0xffffffffu, value, step));
  }
  return value;
}

__device__ __forceinline__ float MaxOfLanes16(float value) {
#pragma unroll
  for (int step = 8; step >= 1; step /= 2) {
    const float other = __shfl_xor_sync(0xffffffffu, value, step);
    value = value < other ? other : value;
  }
  return value;
}

// FastExp of kernels/attention/fast_exp-inl.h.
__device__ __forceinline__ float FastExp(float x) {
  if (!(x >= -87.0f)) return 0.0f;
  x = x < 88.0f ? x : 88.0f;
  const float n = rintf(__fmul_rn(x, 1.44269504f));
  float r = __fmaf_rn(-n, 0.693145752f, x);
  r = __fmaf_rn(-n, 1.42860677e-6f, r);
  float p = 1.0f / 720.0f;
  p = __fmaf_rn(p, r, 1.0f / 120.0f);
  p = __fmaf_rn(p, r, 1.0f / 24.0f);
  p = __fmaf_rn(p, r, 1.0f / 6.0f);
  p = __fmaf_rn(p, r, 0.5f);
  p = __fmaf_rn(p, r, 1.0f);
  p = __fmaf_rn(p, r, 1.0f);
  return __fmul_rn(p, __int_as_float((__float2int_rn(n) + 127) << 23));
}

// Exp and SwiGluOf of kernels/swiglu/swiglu_cpu.cc.
__device__ __forceinline__ float SwiGluExp(float x) {
  x = x > -87.0f ? x : -87.0f;
  x = x < 100.0f ? x : 100.0f;
  const float n = rintf(__fmul_rn(x, 1.44269504f));
  float r = __fmaf_rn(-n, 0.693359375f, x);
  r = __fmaf_rn(-n, -2.12194440e-4f, r);
  float p = 1.0f / 5040;
  p = __fmaf_rn(p, r, 1.0f / 720);
  p = __fmaf_rn(p, r, 1.0f / 120);
  p = __fmaf_rn(p, r, 1.0f / 24);
  p = __fmaf_rn(p, r, 1.0f / 6);
  p = __fmaf_rn(p, r, 0.5f);
  p = __fmaf_rn(p, r, 1.0f);
  p = __fmaf_rn(p, r, 1.0f);
  const int whole = __float2int_rn(n);
  const int half = whole >> 1;
  const float scale0 = __int_as_float((half + 127) << 23);
  const float scale1 = __int_as_float((whole - half + 127) << 23);
  return __fmul_rn(__fmul_rn(p, scale0), scale1);
}

__device__ __forceinline__ float SwiGluOf(float gate, float up) {
  return __fmul_rn(__fdiv_rn(gate, __fadd_rn(1.0f, SwiGluExp(-gate))), up);
}

// 1 / sqrt(sum / width + epsilon).
__device__ __forceinline__ float RmsScale(float sum, float width, float epsilon) {
  return __fdiv_rn(1.0f, __fsqrt_rn(__fadd_rn(__fdiv_rn(sum, width), epsilon)));
}

// ---- number formats

struct Bf16 {
  uint16_t bits;
};
struct F16 {
  uint16_t bits;
};

__device__ __forceinline__ float Widen(Bf16 v) {
  return __uint_as_float(static_cast<uint32_t>(v.bits) << 16);
}
__device__ __forceinline__ float Widen(F16 v) { return __half2float(__ushort_as_half(v.bits)); }
__device__ __forceinline__ float Widen(float v) { return v; }

// FloatToBf16 and FloatToF16 of comm/base/dtype.h.
__device__ __forceinline__ void Narrow(float value, Bf16* to) {
  const uint32_t bits = __float_as_uint(value);
  to->bits = (bits & 0x7fffffffu) > 0x7f800000u
                 ? static_cast<uint16_t>((bits >> 16) | 0x40u)
                 : static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}
__device__ __forceinline__ void Narrow(float value, F16* to) {
  to->bits = isnan(value)
                 ? static_cast<uint16_t>((__float_as_uint(value) >> 16 & 0x8000u) | 0x7e00u)
                 : __half_as_ushort(__float2half_rn(value));
}
__device__ __forceinline__ void Narrow(float value, float* to) { *to = value; }

// The eight elements of a 16-byte chunk (two chunks of fp32).
__device__ __forceinline__ void WidenChunk(const Bf16*, const uint4* chunk, float (&w)[8]) {
  const uint32_t words[4] = {chunk->x, chunk->y, chunk->z, chunk->w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    w[2 * i] = __uint_as_float(words[i] << 16);
    w[2 * i + 1] = __uint_as_float(words[i] & 0xffff0000u);
  }
}
__device__ __forceinline__ void WidenChunk(const F16*, const uint4* chunk, float (&w)[8]) {
  const uint32_t words[4] = {chunk->x, chunk->y, chunk->z, chunk->w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    w[2 * i] = Widen(F16{static_cast<uint16_t>(words[i] & 0xffffu)});
    w[2 * i + 1] = Widen(F16{static_cast<uint16_t>(words[i] >> 16)});
  }
}
__device__ __forceinline__ void WidenChunk(const float*, const uint4* chunk, float (&w)[8]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    w[4 * i] = __uint_as_float(chunk[i].x);
    w[4 * i + 1] = __uint_as_float(chunk[i].y);
    w[4 * i + 2] = __uint_as_float(chunk[i].z);
    w[4 * i + 3] = __uint_as_float(chunk[i].w);
  }
}

// ---- blocks of rows

// Up to `most` rows that belong together: [first, first + count) of group `owner`.
struct RowBlock {
  int owner = 0;
  int first = 0;
  int count = 0;  // 0: there is no such block
};

// Owner o has the rows [first[o] * scale, first[o + 1] * scale), cut into blocks of `most` rows;
// finds block `index` over all owners. The whole warp calls, and gets the same.
__device__ __forceinline__ RowBlock FindRowBlock(const int32_t* first, int owners, int scale,
                                                 int most, int index) {
  const int lane = static_cast<int>(threadIdx.x & 31);
  int before = 0;  // blocks of the owners so far
  for (int base = 0; base < owners; base += 32) {
    const int owner = base + lane;
    const int begin = owner < owners ? first[owner] * scale : 0;
    const int rows = owner < owners ? first[owner + 1] * scale - begin : 0;
    const int blocks = (rows + most - 1) / most;
    int through = blocks;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, through, step);
      if (lane >= step) through += other;
    }
    const int total = __shfl_sync(0xffffffffu, through, 31);
    if (index < before + total) {
      const uint32_t beyond = __ballot_sync(0xffffffffu, index < before + through);
      const int source = __ffs(static_cast<int>(beyond)) - 1;
      const int skipped =
          (index - before - __shfl_sync(0xffffffffu, through - blocks, source)) * most;
      const int left = __shfl_sync(0xffffffffu, rows, source) - skipped;
      return {base + source, __shfl_sync(0xffffffffu, begin, source) + skipped,
              left < most ? left : most};
    }
    before += total;
  }
  return {};
}

}  // namespace conclave::exact
