// How a warp multiplies one weight tile with eight activation rows at a time, for each weight
// format. Weights are the 16-row side of mma.m16n8k16, activations the 8-column side; the products
// of row tiles' places beyond the real rows are not stored, whatever they are. Device code only.
#pragma once

#include <cstdint>

#include "kernels/cuda/weight_tiles.h"
#include "kernels/sbi_gemm/sbi_work.cuh"

namespace conclave {

// Sums of a warp. A chain of products that each wait for the one before would take longer than the
// weights: with few row tiles there are several sets of sums, added up at the end.
template <int kTokenTiles>
struct SbiSums {
  static constexpr int kSets = kTokenTiles == 1 ? 4 : kTokenTiles == 2 ? 2 : 1;
  float sum[kSets][kTokenTiles][4];

  __device__ __forceinline__ void Clear() {
#pragma unroll
    for (int s = 0; s < kSets; ++s) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[s][n][i] = 0;
      }
    }
  }
  // Into set 0.
  __device__ __forceinline__ void Merge() {
#pragma unroll
    for (int s = 1; s < kSets; ++s) {
#pragma unroll
      for (int n = 0; n < kTokenTiles; ++n) {
#pragma unroll
        for (int i = 0; i < 4; ++i) sum[0][n][i] += sum[s][n][i];
      }
    }
  }
};

// Where this lane loads activation fragments from: its row of each row tile, at the warp's first
// input, in shared memory. ldmatrix reads rows in eight different banks or takes as many times
// longer, also where they are the same row: so a place beyond the last row (RowPlace) looks at that
// row some chunks further on, at what stands there.
template <int kTokenTiles>
struct SbiRowPlaces {
  uint32_t row[kTokenTiles];
};
__device__ __forceinline__ uint32_t BeyondLast(int row, int last) {
  return row > last ? ((row - last) & 7) * 16 : 0;
}
inline constexpr int kSbiRowSlack = 128;  // bytes after the rows that BeyondLast may reach

struct SbiBf16Tiles {
  // kUsed: row tiles that have rows.
  template <int kUsed, int kTokenTiles>
  static __device__ __forceinline__ void Multiply(uint32_t tile, int lane, int row_offset,
                                                  const SbiRowPlaces<kTokenTiles>& rows,
                                                  SbiSums<kTokenTiles>& sums) {
    constexpr int kSets = SbiSums<kTokenTiles>::kSets;
    constexpr int kTogether = kUsed < 4 ? kUsed : 4;
    // ldmatrix: lanes 0-15 address rows 0-15 of the lower 8 inputs, lanes 16-31 of the upper 8.
    const int row = lane & 15;
    const uint32_t a_row = tile + row * 128;
    const uint32_t a_chunk = ((lane >> 4) ^ (row & 7)) << 4;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      uint32_t a[2][4];
      LoadMatrix4At(a_row + (a_chunk ^ (half * 64)), a[0]);
      LoadMatrix4At(a_row + (a_chunk ^ (half * 64 + 32)), a[1]);
#pragma unroll
      for (int first = 0; first < kUsed; first += kTogether) {
        uint32_t b[kTogether][4];
#pragma unroll
        for (int n = 0; n < kTogether; ++n) {
          LoadMatrix4At(rows.row[first + n] + row_offset + half * 64, b[n]);
        }
#pragma unroll
        for (int n = 0; n < kTogether; ++n) {
          MatrixMultiplyAdd(sums.sum[(2 * half) % kSets][first + n], a[0], b[n][0], b[n][1]);
        }
#pragma unroll
        for (int n = 0; n < kTogether; ++n) {
          MatrixMultiplyAdd(sums.sum[(2 * half + 1) % kSets][first + n], a[1], b[n][2], b[n][3]);
        }
      }
    }
  }
};

}  // namespace conclave
