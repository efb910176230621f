#include "kernels/tile_gemm/tile_kernel.cuh"

namespace conclave {

absl::Status LaunchTileWide(const TileLaunch& launch, const TileGemmArgs& args, int blocks) {
  return LaunchTileKind<TileKind::kWide>(launch, args, blocks);
}

}  // namespace conclave
