#include "worker/weights/rank_slices.h"

#include "gtest/gtest.h"
#include "worker/weights/weights_test_kit.h"

namespace conclave {
namespace {

TEST(SlicesOf, CutsHeadsWidthsVocabularyAndLayers) {
  ModelShape shape = GoldenShapeOf("llama");  // 3 layers, 4 heads on 2 kv heads
  shape.vocab = 511;
  const RankSlices last = SlicesOf(MakeAssign(shape, "tp=2,dp=2,pp=3", 9));  // pp 2, dp 0, tp 1
  EXPECT_EQ(last.layers, (LayerRange{2, 3}));
  EXPECT_FALSE(last.first_stage);
  EXPECT_TRUE(last.last_stage);
  EXPECT_EQ(last.stage_rank, 1);
  EXPECT_EQ(last.heads, (IndexRange{2, 4}));
  EXPECT_EQ(last.kv_heads, (IndexRange{1, 2}));
  EXPECT_EQ(last.dense_ffn, (IndexRange{64, 128}));
  EXPECT_EQ(last.vocab, (IndexRange{255, 511}));
  EXPECT_TRUE(SlicesOf(MakeAssign(shape, "tp=2,dp=2,pp=3", 0)).first_stage);
}

TEST(SlicesOf, RanksShareKvHeadsWhenThereAreFewer) {
  const ModelShape shape = GoldenShapeOf("llama");
  const IndexRange want[] = {{0, 1}, {0, 1}, {1, 2}, {1, 2}};
  for (int rank = 0; rank < 4; ++rank) {
    const RankSlices slices = SlicesOf(MakeAssign(shape, "tp=4", rank));
    EXPECT_EQ(slices.heads, (IndexRange{rank, rank + 1}));
    EXPECT_EQ(slices.kv_heads, want[rank]);
  }
}

TEST(CheckpointShareBytes, OfOneRankIsTheModel) {
  for (const char* name : {"llama", "llama31", "qwen3", "mixtral", "olmoe", "qwen3_moe"}) {
    const ModelShape shape = GoldenShapeOf(name);
    EXPECT_EQ(CheckpointShareBytes(MakeAssign(shape, "tp=1", 0)), 2 * shape.TotalParameters())
        << name;
  }
}

TEST(CheckpointShareBytes, AddUpToTheModelAndWhatIsReplicated) {
  const ModelShape shape = GoldenShapeOf("qwen3_moe");
  for (const char* spec : {"tp=2", "tp=2,dp=2,slices=2", "dp=4", "tp=2,pp=3"}) {
    int64_t total = 0;
    const Assign first = MakeAssign(shape, spec, 0);
    const ParallelSpec& grid = first.plan.spec;
    for (int rank = 0; rank < grid.WorkerCount(); ++rank) {
      total += CheckpointShareBytes(MakeAssign(shape, spec, rank));
    }
    // Router and norms are on every rank of a stage; attention and tables are cut over tp and
    // replicated over dp.
    int64_t want = grid.StageSize() * 64;
    for (int layer = 0; layer < shape.layers; ++layer) {
      const int64_t norms = 2 * 64 + 2 * 32;
      want += grid.StageSize() * (norms + 16 * 64) +
              grid.dp * (shape.AttentionParameters() - norms) + 16 * shape.ExpertParameters();
    }
    want += 2 * grid.dp * 512 * 64;
    EXPECT_EQ(total, 2 * want) << spec;
  }
}

TEST(HeadIsEmbedding, OnlyWhenTiedOnOneStage) {
  EXPECT_TRUE(HeadIsEmbedding(MakeAssign(GoldenShapeOf("llama31"), "tp=2", 1)));
  EXPECT_FALSE(HeadIsEmbedding(MakeAssign(GoldenShapeOf("llama31"), "pp=2", 1)));
  EXPECT_FALSE(HeadIsEmbedding(MakeAssign(GoldenShapeOf("llama"), "tp=2", 1)));
}

}  // namespace
}  // namespace conclave
