// Which tiles a block of a tile_gemm computes: tables of the groups in shared memory, and a cursor
// that walks the tiles of one block in ascending order. Producer and consumers walk alike. Device
// code only.
#pragma once

#include <cstdint>

#include "kernels/tile_gemm/tile_launch.h"

namespace conclave {

struct TileTables {
  int32_t* tile_end;   // [groups] row tiles of this and all earlier groups
  int32_t* row_first;  // [groups + 1]
  int32_t groups;
};

// Called by the whole block, after the dependency wait; ends with all tables written.
template <int kRows>
__device__ __forceinline__ void BuildTileTables(const TileLaunch& launch,
                                                const TileTables& tables) {
  for (int g = threadIdx.x; g <= tables.groups; g += kTileThreads) {
    const int first = launch.group_first == nullptr ? g * launch.rows : launch.group_first[g];
    tables.row_first[g] = min(max(first, 0), launch.rows);
  }
  __syncthreads();
  if (threadIdx.x < 32) {
    const int share = (tables.groups + 31) / 32;
    const int begin = min(static_cast<int>(threadIdx.x) * share, tables.groups);
    const int end = min(begin + share, tables.groups);
    int before = 0;
    for (int g = begin; g < end; ++g) {
      before += max(tables.row_first[g + 1] - tables.row_first[g] + kRows - 1, 0) / kRows;
    }
    const int own = before;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(0xffffffffu, before, step);
      if (threadIdx.x >= step) before += other;
    }
    before -= own;
    for (int g = begin; g < end; ++g) {
      before += max(tables.row_first[g + 1] - tables.row_first[g] + kRows - 1, 0) / kRows;
      tables.tile_end[g] = before;
    }
  }
  __syncthreads();
}

struct TileWork {
  int32_t matrix;
  int32_t row;    // first, of x and out
  int32_t valid;  // rows of the group from there on, at most kRows
  int32_t output_tile;
};

// Tiles of a group stand together; within it bands of kTileBand row tiles, within a band the row
// tiles of one output tile side by side: blocks that run together share weights and activations.
template <int kRows>
class TileCursor {
 public:
  __device__ __forceinline__ TileCursor(const TileTables& tables, int output_tiles)
      : tables_(tables),
        output_tiles_(output_tiles),
        tile_(blockIdx.x),
        count_(tables.tile_end[tables.groups - 1] * output_tiles) {}

  // False after the block's last tile.
  __device__ __forceinline__ bool Next(TileWork& work) {
    if (tile_ >= count_) return false;
    const int row_tile = tile_ / output_tiles_;
    while (tables_.tile_end[group_] <= row_tile) ++group_;
    const int start = group_ == 0 ? 0 : tables_.tile_end[group_ - 1];
    const int tiles = tables_.tile_end[group_] - start;
    const int place = tile_ - start * output_tiles_;
    const int band = place / (kTileBand * output_tiles_);
    const int width = min(kTileBand, tiles - band * kTileBand);
    const int within = place - band * kTileBand * output_tiles_;
    const int column = within / width;
    const int first = (band * kTileBand + within - column * width) * kRows;
    work.matrix = group_;
    work.row = tables_.row_first[group_] + first;
    work.valid = min(tables_.row_first[group_ + 1] - work.row, kRows);
    work.output_tile = column;
    tile_ += gridDim.x;
    return true;
  }

 private:
  TileTables tables_;
  int output_tiles_;
  int tile_;
  int count_;
  int group_ = 0;
};

// A place in the ring of stages: `phase` is the parity of the round.
template <int kStages>
struct RingPlace {
  int stage = 0;
  uint32_t phase = 0;
  __device__ __forceinline__ void Advance() {
    if (++stage == kStages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

}  // namespace conclave
