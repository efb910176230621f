#include "placement/cost/model_dims.h"

#include "gtest/gtest.h"
#include "placement/testing_shapes.h"

namespace conclave {
namespace {

// Billions of weights as the models' authors give them.
TEST(ModelDimsTest, PresetsHaveTheirPublishedSizes) {
  struct Size {
    const char* name;
    double billions;
  };
  for (const Size& size :
       {Size{"kimi-k2", 1026}, Size{"deepseek-v3", 671}, Size{"qwen3-30b-a3b", 30.5},
        Size{"qwen3-235b-a22b", 235}, Size{"olmoe-1b-7b", 6.9}, Size{"mixtral-8x7b", 46.7},
        Size{"llama-3.1-8b", 8.03}, Size{"llama-3.1-70b", 70.6}, Size{"llama-3.1-405b", 405.9},
        Size{"paper-107b", 107.7}, Size{"paper-349b", 349}, Size{"paper-1t", 1046.9},
        Size{"paper-2t", 2024}, Size{"paper-52b", 52}}) {
    const absl::StatusOr<ModelDims> model = PresetDims(size.name);
    ASSERT_TRUE(model.ok()) << size.name;
    EXPECT_NEAR(model->TotalWeights() / 1e9, size.billions, 0.012 * size.billions) << size.name;
    EXPECT_EQ(static_cast<int>(model->moe_layers.size()), model->layers);
  }
}

TEST(ModelDimsTest, AnUnknownPresetListsTheNames) {
  const absl::StatusOr<ModelDims> model = PresetDims("kimi");
  ASSERT_EQ(model.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(model.status().message().find("kimi-k2"), absl::string_view::npos);
  EXPECT_EQ(PresetDimsNames().size(), 14u);
}

TEST(ModelDimsTest, LatentAttentionCachesOneRowForAllHeads) {
  const ModelDims model = *PresetDims("deepseek-v3");
  EXPECT_EQ(model.KvBytesPerTokenLayer(1), (512 + 64) * 2);
  EXPECT_EQ(model.KvBytesPerTokenLayer(8), model.KvBytesPerTokenLayer(1));
  const ModelDims grouped = *PresetDims("llama-3.1-70b");
  EXPECT_EQ(grouped.KvBytesPerTokenLayer(1), 2 * 8 * 128 * 2);
  EXPECT_EQ(grouped.KvBytesPerTokenLayer(8), 2 * 128 * 2);
  EXPECT_EQ(grouped.KvBytesPerTokenLayer(16), 2 * 128 * 2);
}

TEST(ModelDimsTest, AShapeGivesTheSameCountsAsItsParameters) {
  for (const ModelShape& shape : {TestMoeShape(), TestDenseShape()}) {
    const ModelDims dims = DimsOf(shape);
    EXPECT_NEAR(dims.TotalWeights(), static_cast<double>(shape.TotalParameters()),
                0.02 * static_cast<double>(shape.TotalParameters()));
  }
}

}  // namespace
}  // namespace conclave
