// Reading a PendingSum: a thread adds to its quads (four neighbouring values) of a token's row what
// is pending there. Loads of several slabs or rows are under way together; they go past L1, which
// may hold what an earlier kernel left. Device code only.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>
#include <type_traits>

#include "kernels/add_norm/add_norm.h"

namespace conclave {

// The quads of a row that a thread has: first, first + step, ... below end.
struct QuadRange {
  int first, step, end;
};

template <typename T>
struct QuadOf;
template <>
struct QuadOf<float> {
  using Raw = float4;
  static __device__ __forceinline__ float4 Widen(const float4& v) { return v; }
};
template <>
struct QuadOf<__nv_bfloat16> {
  using Raw = uint2;
  static __device__ __forceinline__ float4 Widen(const uint2& v) {
    return {__uint_as_float(v.x << 16), __uint_as_float(v.x & 0xffff0000u),
            __uint_as_float(v.y << 16), __uint_as_float(v.y & 0xffff0000u)};
  }
};

__device__ __forceinline__ void AddScaledQuad(float4& sum, float scale, const float4& v) {
  sum.x = fmaf(scale, v.x, sum.x);
  sum.y = fmaf(scale, v.y, sum.y);
  sum.z = fmaf(scale, v.z, sum.z);
  sum.w = fmaf(scale, v.w, sum.w);
}

template <int kQuads>
__device__ __forceinline__ void LoadQuads(const float* row, const QuadRange& quads,
                                          float4 (&v)[kQuads]) {
#pragma unroll
  for (int c = 0; c < kQuads; ++c) {
    const int q = quads.first + c * quads.step;
    v[c] =
        q < quads.end ? __ldcg(reinterpret_cast<const float4*>(row) + q) : make_float4(0, 0, 0, 0);
  }
}

// kBatch slabs or rows, of T, are under way together.
template <PendingKind kKind, int kQuads, int kBatch>
__device__ __forceinline__ void AddPendingOf(const PendingSum& pending, int64_t token,
                                             const QuadRange& quads, float4 (&v)[kQuads]) {
  using T = std::conditional_t<kKind == PendingKind::kRowsBf16, __nv_bfloat16, float>;
  using Quad = QuadOf<T>;
  constexpr bool kSlabs = kKind == PendingKind::kSlabs;
  const int64_t entry = token * pending.count;
  const auto* data =
      static_cast<const T*>(pending.data) + (kSlabs ? token * pending.row_stride : 0);
  const int64_t stride = kSlabs ? pending.slab_stride : pending.row_stride;
  for (int first = 0; first < pending.count; first += kBatch) {
    int row[kBatch];
    float scale[kBatch];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const int choice = first + b;
      const bool given = choice < pending.count;
      row[b] = given ? choice : -1;
      scale[b] = 1;
      if (kSlabs || !given) continue;
      row[b] = pending.row_of_entry == nullptr ? static_cast<int>(entry + choice)
                                               : __ldcg(pending.row_of_entry + entry + choice);
      scale[b] = __ldcg(pending.gate_weights + entry + choice);
    }
    typename Quad::Raw raw[kBatch][kQuads];
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      const auto* from = reinterpret_cast<const typename Quad::Raw*>(data + row[b] * stride);
#pragma unroll
      for (int c = 0; c < kQuads; ++c) {
        const int q = quads.first + c * quads.step;
        raw[b][c] = {};
        if (row[b] >= 0 && q < quads.end) raw[b][c] = __ldcg(from + q);
      }
    }
#pragma unroll
    for (int b = 0; b < kBatch; ++b) {
      if (row[b] < 0) continue;
#pragma unroll
      for (int c = 0; c < kQuads; ++c) AddScaledQuad(v[c], scale[b], Quad::Widen(raw[b][c]));
    }
  }
}

template <int kQuads, int kBatch>
__device__ __forceinline__ void AddPending(const PendingSum& pending, int64_t token,
                                           const QuadRange& quads, float4 (&v)[kQuads]) {
  switch (pending.kind) {
    case PendingKind::kNone:
      return;
    case PendingKind::kSlabs:
      return AddPendingOf<PendingKind::kSlabs, kQuads, kBatch>(pending, token, quads, v);
    case PendingKind::kRowsF32:
      return AddPendingOf<PendingKind::kRowsF32, kQuads, kBatch>(pending, token, quads, v);
    case PendingKind::kRowsBf16:
      return AddPendingOf<PendingKind::kRowsBf16, kQuads, kBatch>(pending, token, quads, v);
  }
}

}  // namespace conclave
