#include "comm/types/model_shape.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

// OLMoE-1B-7B: 6.92 billion parameters, as its authors state.
TEST(ModelShapeTest, CountsParametersOfOlmoe) {
  ModelShape shape;
  shape.architecture = Architecture::kOlmoe;
  shape.layers = 16;
  shape.hidden = 2048;
  shape.heads = shape.kv_heads = 16;
  shape.head_dim = 128;
  shape.vocab = 50304;
  shape.qk_norm = QkNorm::kFullWidth;
  shape.moe = {.experts = 64, .top_k = 8, .ffn = 1024};
  EXPECT_NEAR(shape.TotalParameters() / 1e9, 6.92, 0.01);
  EXPECT_TRUE(shape.IsMoeLayer(0));
  shape.dense_layers = {0, 3};
  EXPECT_FALSE(shape.IsMoeLayer(3));
  EXPECT_TRUE(shape.IsMoeLayer(2));
}

}  // namespace
}  // namespace conclave
