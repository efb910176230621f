#include "kernels/tile_gemm/tile_kernel.cuh"

namespace conclave {

absl::Status LaunchTileSquare(const TileLaunch& launch, const TileGemmArgs& args, int blocks) {
  return LaunchTileKind<TileKind::kSquare>(launch, args, blocks);
}

}  // namespace conclave
