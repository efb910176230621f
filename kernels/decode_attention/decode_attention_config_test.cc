#include "kernels/decode_attention/decode_attention_config.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

DecodeAttentionConfig Choose(int context_max, int tokens, int heads = 32, int kv_heads = 4) {
  return *ChooseDecodeAttentionConfig({context_max, tokens, heads, kv_heads, 128});
}

TEST(DecodeAttentionConfig, SplitsShortContextsForTheReader) {
  EXPECT_EQ(Choose(1, 1).splits, 1);
  EXPECT_EQ(Choose(512, 1).splits, 8);
  EXPECT_EQ(Choose(4096, 1).splits, 16);
  EXPECT_FALSE(Choose(4096, 1).combine);
}

TEST(DecodeAttentionConfig, FillsTheChipForLongContexts) {
  EXPECT_EQ(Choose(131072, 1).splits, 64);
  EXPECT_TRUE(Choose(131072, 1).combine);
  EXPECT_EQ(Choose(4096, 32).splits, 2);
  EXPECT_TRUE(Choose(4096, 32).combine);
  EXPECT_EQ(Choose(4096, 256).splits, 1);
}

TEST(DecodeAttentionConfig, LeavesIdleProcessorsToThePrefetch) {
  EXPECT_EQ(Choose(512, 1).prefetch_blocks, 132 - 32);
  EXPECT_GT(Choose(4096, 64).prefetch_blocks, 0);
}

TEST(DecodeAttentionConfig, RefusesShapesWithoutAKernel) {
  EXPECT_FALSE(ChooseDecodeAttentionConfig({512, 257, 32, 4, 128}).ok());
  EXPECT_FALSE(ChooseDecodeAttentionConfig({512, 1, 30, 4, 128}).ok());
  EXPECT_FALSE(ChooseDecodeAttentionConfig({0, 1, 32, 4, 128}).ok());
}

}  // namespace
}  // namespace conclave
