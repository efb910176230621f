#include "kernels/tile_gemm/tile_gemm_config.h"

#include <algorithm>
#include <cmath>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

// Rows of a matrix up to which streaming its weights takes longer than multiplying.
constexpr double kStreamedRowsMax = 48;
// Cycles of one SM: bytes from L2, multiply-adds of bf16, and what a tile costs beside its steps.
constexpr double kL2BytesPerCycle = 40;
constexpr double kProductsPerCycle = 2048;
constexpr double kTileCycles = 800;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Row tiles that are expected of all matrices: each has a last one that is partly filled.
double RowTiles(const TileGemmShape& shape, int tile_rows) {
  if (shape.matrices == 0) return static_cast<double>(CeilDiv(shape.rows, tile_rows));
  const double touched = std::min(shape.matrices, shape.rows);
  return touched * std::max(1.0, shape.rows / touched / tile_rows + 0.5);
}

double Cycles(const TileGemmShape& shape, TileKind kind) {
  const TileExtent tile = ExtentOf(kind);
  const double tiles =
      RowTiles(shape, tile.rows) * static_cast<double>(CeilDiv(shape.outputs, tile.outputs));
  const double waves = std::ceil(tiles / shape.sm_count);
  const double step = std::max(tile.rows * tile.outputs * kTileInputs / kProductsPerCycle,
                               TileSharedLayout::StageBytes(tile) / kL2BytesPerCycle);
  const double steps = static_cast<double>(CeilDiv(shape.inputs, kTileInputs));
  return waves * (steps * step + kTileCycles + tile.rows * tile.outputs / 32.0);
}

}  // namespace

TileConfig MakeTileConfig(const TileGemmShape& shape, TileKind kind) {
  const TileExtent tile = ExtentOf(kind);
  const int64_t row_tiles =
      shape.matrices == 0
          ? CeilDiv(shape.rows, tile.rows)
          : std::min<int64_t>(shape.rows, shape.rows / tile.rows + int64_t{shape.matrices});
  const int64_t tiles = row_tiles * CeilDiv(shape.outputs, tile.outputs);
  TileConfig config = {.kind = kind};
  config.blocks = static_cast<int32_t>(std::min<int64_t>(shape.sm_count, tiles));
  return config;
}

absl::StatusOr<TileConfig> ChooseTileConfig(const TileGemmShape& shape) {
  if (shape.outputs <= 0 || shape.inputs <= 0 || shape.rows < 0 || shape.sm_count <= 0 ||
      shape.matrices < 0 || shape.matrices > kTileMatricesMax) {
    return absl::InvalidArgumentError(
        absl::StrCat("tile_gemm: outputs ", shape.outputs, ", inputs ", shape.inputs, ", rows ",
                     shape.rows, ", matrices ", shape.matrices,
                     ": sizes must be positive, matrices at most ", kTileMatricesMax));
  }
  const double rows = static_cast<double>(shape.rows) / std::max(shape.matrices, 1);
  if (rows <= kStreamedRowsMax) return MakeTileConfig(shape, TileKind::kNarrow);
  TileKind best = TileKind::kWide;
  for (const TileKind kind : {TileKind::kSquare, TileKind::kNarrow}) {
    if (Cycles(shape, kind) < Cycles(shape, best)) best = kind;
  }
  return MakeTileConfig(shape, best);
}

}  // namespace conclave
