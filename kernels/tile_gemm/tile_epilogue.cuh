// What becomes of the sums of a tile_gemm: bias, SwiGLU, rounding, the way to memory. A warp owns
// 16 rows of its warpgroup's tile; a thread has, of each block of 8 outputs, two neighbours of rows
// lane / 4 and lane / 4 + 8. bf16 goes through the warp's staging rows, so that stores are whole
// lines; fp32 goes by 16 bytes from the registers. Device code only; all lanes of a warp call.
#pragma once

#include <cuda_bf16.h>

#include <cstdint>

#include "kernels/cuda/ptx.cuh"
#include "kernels/tile_gemm/tile_gemm.h"

namespace conclave {

// Where a warp's sums go.
struct TileTarget {
  char* out;       // of the warp's first row and the warpgroup's first column
  int64_t stride;  // bytes from row to row
  int rows;        // valid from the warp's first row on; may be <= 0 or > 16
  int columns;     // valid from the warpgroup's first column on; likewise
  char* staging;   // the warp's, kStagingWarpBytes
};

// bias: of the warpgroup's first output; outputs: valid from there on.
template <int kRegisters>
__device__ __forceinline__ void AddTileBias(float (&sums)[kRegisters], const float* bias,
                                            int outputs) {
  const int pair = threadIdx.x % 4 * 2;
#pragma unroll
  for (int b = 0; b < kRegisters / 4; ++b) {
    const int n = b * 8 + pair;
    const float first = n < outputs ? bias[n] : 0.0f;
    const float second = n + 1 < outputs ? bias[n + 1] : 0.0f;
    sums[4 * b] += first;
    sums[4 * b + 1] += second;
    sums[4 * b + 2] += first;
    sums[4 * b + 3] += second;
  }
}

__device__ __forceinline__ float SwiGluOf(float gate, float up) {
  return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

// Two neighbours of block `block` of the outcome, rounded; half 0: row lane / 4, 1: 8 rows below.
template <TileEpilogue kEpilogue, int kRegisters>
__device__ __forceinline__ uint32_t RoundedPair(const float (&sums)[kRegisters], int block,
                                                int half) {
  if constexpr (kEpilogue == TileEpilogue::kSwiGlu) {
    const int gate = 8 * block + 2 * half, up = gate + 4;
    return PackBf16(SwiGluOf(sums[gate], sums[up]), SwiGluOf(sums[gate + 1], sums[up + 1]));
  } else {
    return PackBf16(sums[4 * block + 2 * half], sums[4 * block + 2 * half + 1]);
  }
}

__device__ __forceinline__ void StoreMatrix4(uint32_t shared_address, const uint32_t (&r)[4]) {
  asm volatile(
      "stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(shared_address),
      "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3])
      : "memory");
}

// kBlocks * 8 staged columns, to columns from `column` on.
template <int kBlocks>
__device__ __forceinline__ void StoreStaged(const TileTarget& target, int column) {
  constexpr int kRowsAtOnce = 32 / kBlocks;
  const int lane = threadIdx.x % 32;
  const int chunk = lane % kBlocks;
  const int valid = target.columns - column - chunk * 8;
#pragma unroll
  for (int first = 0; first < 16; first += kRowsAtOnce) {
    const int row = first + lane / kBlocks;
    const uint4 v = *reinterpret_cast<const uint4*>(
        target.staging + row * TileSharedLayout::kStagingRowBytes + chunk * 16);
    if (row >= target.rows) continue;
    char* to = target.out + row * target.stride + (column + chunk * 8) * 2;
    if (valid >= 8) {
      *reinterpret_cast<uint4*>(to) = v;
    } else {
      const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
      for (int i = 0; i < 8; ++i) {
        if (i < valid) {
          reinterpret_cast<uint16_t*>(to)[i] = static_cast<uint16_t>(words[i / 2] >> (i % 2 * 16));
        }
      }
    }
  }
}

// A tile's outcome, rounded, on its way to memory: it is stored in passes, between the steps of the
// next tile, so that the tensor cores need not wait for stores.
template <TileEpilogue kEpilogue, int kRegisters>
struct HeldTile {
  static constexpr int kBlocks = kRegisters / 4 / (kEpilogue == TileEpilogue::kSwiGlu ? 2 : 1);
  static constexpr int kPassBlocks = kBlocks < 8 ? kBlocks : 8;
  static constexpr int kPasses = kBlocks / kPassBlocks;

  __device__ __forceinline__ void Hold(const float (&sums)[kRegisters], const TileTarget& to) {
    target = to;
    any = to.rows > 0;
#pragma unroll
    for (int b = 0; b < kBlocks; ++b) {
      words[2 * b] = RoundedPair<kEpilogue>(sums, b, 0);
      words[2 * b + 1] = RoundedPair<kEpilogue>(sums, b, 1);
    }
  }

  __device__ __forceinline__ void StorePass(int pass) {
    if (!any) return;
    const int lane = threadIdx.x % 32;
    // stmatrix: lane l gives the row l % 8 of matrix l / 8; matrices are the two halves of a
    // block, then those of the next.
    const uint32_t to = SharedAddress(target.staging) +
                        lane % 16 * TileSharedLayout::kStagingRowBytes + lane / 16 * 16;
    __syncwarp();  // the staging rows have been read
#pragma unroll
    for (int b = 0; b < kPassBlocks; b += 2) {
      const int first = 2 * (pass * kPassBlocks + b);
      const uint32_t r[4] = {words[first], words[first + 1], words[first + 2], words[first + 3]};
      StoreMatrix4(to + b * 16, r);
    }
    __syncwarp();
    StoreStaged<kPassBlocks>(target, pass * kPassBlocks * 8);
  }

  // Passes from `from` on; nothing is held afterwards.
  __device__ __forceinline__ void StoreRest(int from) {
#pragma unroll
    for (int pass = 0; pass < kPasses; ++pass) {
      if (pass >= from) StorePass(pass);
    }
    any = false;
  }

  uint32_t words[2 * kBlocks];
  TileTarget target;
  bool any = false;
};

// Adds in L2: one addition to each element.
__device__ __forceinline__ void AddToMemory(float* to, float4 v) {
  asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};" ::"l"(to), "f"(v.x),
               "f"(v.y), "f"(v.z), "f"(v.w)
               : "memory");
}

template <bool kAdd>
__device__ __forceinline__ void StoreFour(float* to, float4 v, int valid) {
  if (valid >= 4) {
    if constexpr (kAdd) {
      AddToMemory(to, v);
    } else {
      *reinterpret_cast<float4*>(to) = v;
    }
    return;
  }
  const float values[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i < valid) to[i] = kAdd ? to[i] + values[i] : values[i];
  }
}

template <bool kAdd, int kRegisters>
__device__ __forceinline__ void StoreFull(const float (&sums)[kRegisters],
                                          const TileTarget& target) {
  const int lane = threadIdx.x % 32;
  const bool odd = lane % 2 != 0;
  // Neighbouring lanes swap, so that each has four columns: the even one of the first block of a
  // pair, the odd one of the second.
  const int column = lane % 4 / 2 * 4 + (odd ? 8 : 0);
#pragma unroll
  for (int b = 0; b < kRegisters / 4; b += 2) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const float* first = sums + 4 * b + 2 * half;
      const float* second = first + 4;
      const float low = __shfl_xor_sync(0xffffffffu, odd ? first[0] : second[0], 1);
      const float high = __shfl_xor_sync(0xffffffffu, odd ? first[1] : second[1], 1);
      const float4 v = odd ? make_float4(low, high, second[0], second[1])
                           : make_float4(first[0], first[1], low, high);
      const int row = lane / 4 + 8 * half;
      const int place = b * 8 + column;
      if (row < target.rows) {
        auto* to = reinterpret_cast<float*>(target.out + row * target.stride) + place;
        StoreFour<kAdd>(to, v, target.columns - place);
      }
    }
  }
}

// Sums that stay in fp32 are stored at once: they leave no registers for the next tile.
template <TileEpilogue kEpilogue, int kRegisters>
requires(kEpilogue == TileEpilogue::kFp32 ||
         kEpilogue == TileEpilogue::kFp32Add) struct HeldTile<kEpilogue, kRegisters> {
  static constexpr int kPasses = 0;
  __device__ __forceinline__ void Hold(const float (&sums)[kRegisters], const TileTarget& to) {
    if (to.rows > 0) StoreFull<kEpilogue == TileEpilogue::kFp32Add>(sums, to);
  }
  __device__ __forceinline__ void StorePass(int) {}
  __device__ __forceinline__ void StoreRest(int) {}
};

}  // namespace conclave
