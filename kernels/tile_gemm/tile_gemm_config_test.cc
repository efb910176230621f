#include "kernels/tile_gemm/tile_gemm_config.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

TileConfig Choose(const TileGemmShape& shape) {
  const auto config = ChooseTileConfig(shape);
  EXPECT_TRUE(config.ok()) << config.status();
  return config.ok() ? *config : TileConfig{};
}

TEST(TileGemmConfig, PrefillTakesWideTiles) {
  for (const TileGemmShape& shape :
       {TileGemmShape{5120, 2048, 16384}, TileGemmShape{2048, 4096, 16384},
        TileGemmShape{1536, 2048, 131072, 128}, TileGemmShape{2048, 768, 131072, 128},
        TileGemmShape{2048, 2048, 131072, 64}, TileGemmShape{2048, 1024, 131072, 64}}) {
    EXPECT_EQ(Choose(shape).kind, TileKind::kWide) << shape.outputs << "x" << shape.inputs;
    EXPECT_EQ(Choose(shape).blocks, 132);
  }
}

TEST(TileGemmConfig, FewRowsStreamWeights) {
  EXPECT_EQ(Choose({1536, 2048, 1024, 128}).kind, TileKind::kNarrow);
  EXPECT_EQ(Choose({2048, 768, 2048, 128}).kind, TileKind::kNarrow);
  EXPECT_EQ(Choose({1536, 2048, 65536, 128}).kind, TileKind::kWide);
}

TEST(TileGemmConfig, SmallProductsSpreadOverProcessors) {
  EXPECT_NE(Choose({2048, 2048, 512}).kind, TileKind::kWide);
  EXPECT_EQ(Choose({64, 64, 1}).blocks, 1);
}

TEST(TileGemmConfig, NoBlockIsWithoutATileToExpect) {
  for (const int rows : {1, 65, 200, 1000}) {
    for (const int matrices : {0, 1, 16, 512}) {
      const TileConfig config = Choose({257, 80, rows, matrices});
      EXPECT_GE(config.blocks, 1);
      EXPECT_LE(config.blocks, 132);
      EXPECT_LE(config.blocks, 3 * rows);
    }
  }
}

TEST(TileGemmConfig, StagesFillTheRing) {
  EXPECT_EQ(TileSharedLayout::Stages(ExtentOf(TileKind::kWide)), 4);
  EXPECT_EQ(TileSharedLayout::Stages(ExtentOf(TileKind::kSquare)), 6);
  EXPECT_EQ(TileSharedLayout::Stages(ExtentOf(TileKind::kNarrow)), 8);
}

TEST(TileGemmConfig, RefusesWhatNoKernelTakes) {
  EXPECT_FALSE(ChooseTileConfig({0, 64, 64}).ok());
  EXPECT_FALSE(ChooseTileConfig({64, 0, 64}).ok());
  EXPECT_FALSE(ChooseTileConfig({64, 64, -1}).ok());
  EXPECT_FALSE(ChooseTileConfig({64, 64, 64, kTileMatricesMax + 1}).ok());
}

}  // namespace
}  // namespace conclave
