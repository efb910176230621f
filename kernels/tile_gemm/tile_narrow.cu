#include "kernels/tile_gemm/tile_kernel.cuh"

namespace conclave {

absl::Status LaunchTileNarrow(const TileLaunch& launch, const TileGemmArgs& args, int blocks) {
  return LaunchTileKind<TileKind::kNarrow>(launch, args, blocks);
}

}  // namespace conclave
