// How a tile_gemm is cut for a chip: the tile that a block computes at a time, the ring of stages
// that feeds it and the grid. A pure function of shapes, tested without a GPU. Values; any thread.
// The order of the sum over inputs is the same for every tile, so a config changes no bit.
#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "kernels/cuda/weight_tiles.h"

namespace conclave {

inline constexpr int kTileMatricesMax = 512;
// Two warpgroups multiply, the first of three loads.
inline constexpr int kTileConsumerWarps = 8;
inline constexpr int kTileThreads = 3 * 128;
// Row tiles whose blocks run side by side and share activations and weights in L2.
inline constexpr int kTileBand = 16;

enum class TileKind : uint8_t {
  kWide = 0,    // 128 rows x 256 outputs: fewest bytes from L2 for each product
  kSquare = 1,  // 128 x 128: when kWide leaves processors idle
  kNarrow = 2,  // 64 x 128, eight stages: streams weights for a few rows of each matrix
};
inline constexpr int kTileKinds = 3;

struct TileExtent {
  int32_t rows = 0;
  int32_t outputs = 0;
};
constexpr TileExtent ExtentOf(TileKind kind) {
  switch (kind) {
    case TileKind::kWide:
      return {128, 256};
    case TileKind::kSquare:
      return {128, 128};
    case TileKind::kNarrow:
      return {64, 128};
  }
  return {};
}

// A block's shared memory, in bytes; of host and device.
struct TileSharedLayout {
  static constexpr int kRing = 0;
  static constexpr int kRingBytes = 192 * 1024;
  // Of each consumer warp: 16 rows of 128 bytes, padded so that rows start in different banks.
  static constexpr int kStagingRowBytes = 128 + 16;
  static constexpr int kStagingWarpBytes = 16 * kStagingRowBytes;
  static constexpr int kStaging = kRing + kRingBytes;
  // Of each matrix: the row tiles up to its end, and its first row.
  static constexpr int kTileEnd = kStaging + kTileConsumerWarps * kStagingWarpBytes;
  static constexpr int kRowFirst = kTileEnd + kTileMatricesMax * 4;
  static constexpr int kBarriers = kRowFirst + (kTileMatricesMax + 2) * 4;
  static constexpr int kStagesMax = 8;
  static constexpr int kTotal = kBarriers + 2 * kStagesMax * 8;

  static constexpr int StageBytes(TileExtent tile) {
    return (tile.rows + tile.outputs) * kTileInputs * 2;
  }
  static constexpr int Stages(TileExtent tile) { return kRingBytes / StageBytes(tile); }
};
static_assert(TileSharedLayout::kTotal <= 227 * 1024);
static_assert(TileSharedLayout::kBarriers % 8 == 0);

struct TileGemmShape {
  int32_t outputs = 0;
  int32_t inputs = 0;
  int32_t rows = 0;      // of all matrices together; grouped: what is expected, or the capacity
  int32_t matrices = 0;  // 0: dense
  int32_t sm_count = 132;
};

struct TileConfig {
  TileKind kind = TileKind::kWide;
  int32_t blocks = 0;  // grid; each block takes every blocks-th tile
};

// InvalidArgument for shapes that no kernel takes.
absl::StatusOr<TileConfig> ChooseTileConfig(const TileGemmShape& shape);

// The config of a given kind, for tests and benches.
TileConfig MakeTileConfig(const TileGemmShape& shape, TileKind kind);

}  // namespace conclave
