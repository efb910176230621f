#include "kernels/gemm/panel_job.h"

#include <algorithm>

#include "gtest/gtest.h"

namespace conclave {
namespace {

GemmGrid ChooseGrid(const GemmShape& shape, int threads) {
  return CutGemm(shape, TaskCount(EstimateNanoseconds(shape), threads));
}

int64_t Tasks(const GemmShape& s, const GemmGrid& g) {
  return ((s.panels + g.panels_per_task - 1) / g.panels_per_task) *
         ((s.tokens + g.tokens_per_task - 1) / g.tokens_per_task);
}

TEST(NextChunk, PiecesAreBoundedAndNearlyEqual) {
  for (int64_t tokens = 1; tokens <= 1000; ++tokens) {
    int64_t smallest = tokens, largest = 0;
    for (int64_t left = tokens; left > 0;) {
      const int64_t chunk = NextChunk(left);
      ASSERT_GE(chunk, 1);
      ASSERT_LE(chunk, std::min(left, kChunkTokens));
      smallest = std::min(smallest, chunk);
      largest = std::max(largest, chunk);
      left -= chunk;
    }
    ASSERT_LE(largest - smallest, 12) << tokens;
  }
}

TEST(GemmGrid, OneThreadOrTinyWorkIsOneTask) {
  const GemmShape large{.panels = 128, .inputs = 2048, .tokens = 1};
  EXPECT_EQ(Tasks(large, ChooseGrid(large, 1)), 1);
  const GemmShape tiny{.panels = 4, .inputs = 64, .tokens = 1};
  EXPECT_EQ(Tasks(tiny, ChooseGrid(tiny, 8)), 1);
}

TEST(GemmGrid, DecodeCutsOutputsInWholeGroups) {
  const GemmShape shape{.panels = 128, .inputs = 2048, .tokens = 1};
  const GemmGrid grid = ChooseGrid(shape, 2);
  EXPECT_EQ(grid.panels_per_task % 4, 0);
  EXPECT_EQ(grid.tokens_per_task, 1);
  EXPECT_GE(Tasks(shape, grid), 8);
}

TEST(GemmGrid, DecodeOfASmallMatrixStillUsesTheThreads) {
  const GemmShape router{.panels = 4, .inputs = 2048, .tokens = 1};
  EXPECT_EQ(Tasks(router, ChooseGrid(router, 2)), 2);
}

TEST(GemmGrid, FewPanelsManyTokensCutsTokens) {
  const GemmShape router{.panels = 4, .inputs = 2048, .tokens = 512};
  const GemmGrid grid = ChooseGrid(router, 2);
  EXPECT_LT(grid.tokens_per_task, 512);
  EXPECT_EQ(grid.tokens_per_task % 6, 0);
  EXPECT_GE(Tasks(router, grid), 8);
}

TEST(GemmGrid, ManyTokensKeepGroupsWhole) {
  for (const int64_t panels : {4, 8, 16, 64}) {
    const GemmShape shape{.panels = panels, .inputs = 256, .tokens = 128};
    for (const int64_t tasks : {2, 8, 32, 512}) {
      const GemmGrid grid = CutGemm(shape, tasks);
      EXPECT_EQ(grid.panels_per_task % 4, 0) << panels << ", " << tasks;
    }
    EXPECT_GE(Tasks(shape, ChooseGrid(shape, 2)), 4);
  }
}

TEST(GemmGrid, CoversEveryShapeWithBoundedTasks) {
  for (const int threads : {1, 2, 3, 16}) {
    for (const int64_t panels : {1, 3, 4, 5, 64, 3144}) {
      for (const int64_t tokens : {1, 2, 6, 7, 47, 48, 128, 4096}) {
        const GemmShape shape{.panels = panels, .inputs = 2048, .tokens = tokens};
        const GemmGrid grid = ChooseGrid(shape, threads);
        ASSERT_GE(grid.panels_per_task, 1);
        ASSERT_GE(grid.tokens_per_task, 1);
        ASSERT_LE(Tasks(shape, grid), 2 * 16 * threads + 1);
      }
    }
  }
}

}  // namespace
}  // namespace conclave
