// What the tile_gemm kernels are given, and their launchers. Values, made for each launch by
// tile_gemm.cc; any thread. Included where there is a CUDA toolkit only.
#pragma once

#include <cuda.h>

#include <cstdint>

#include "absl/status/status.h"
#include "kernels/tile_gemm/tile_gemm.h"

namespace conclave {

struct TileLaunch {
  CUtensorMap x;        // [rows, inputs] bf16, boxes of TileBoxRows x 64, 128-byte swizzle
  CUtensorMap weights;  // [matrices, output tiles, input tiles, 256] of 8 bytes, as they lie
  void* out;
  int64_t out_stride;
  const float* bias;
  const int32_t* group_first;
  int32_t rows;
  int32_t outputs;
  int32_t matrices;
  int32_t steps;         // of 64 inputs
  int32_t output_tiles;  // of the tile's outputs
};

// Rows of x that one copy brings: copies without valid rows are left out.
constexpr int TileBoxRows(TileKind kind) { return kind == TileKind::kNarrow ? 16 : 64; }

absl::Status LaunchTileWide(const TileLaunch& launch, const TileGemmArgs& args, int blocks);
absl::Status LaunchTileSquare(const TileLaunch& launch, const TileGemmArgs& args, int blocks);
absl::Status LaunchTileNarrow(const TileLaunch& launch, const TileGemmArgs& args, int blocks);

}  // namespace conclave
