#include "kernels/sbi_gemm/sbi_gemm_config.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr int kPaired = 113 * 1024;  // two blocks on an SM

SbiShape Dense(int outputs, int inputs, int tokens) {
  return {.outputs = outputs, .inputs = inputs, .tokens = tokens};
}
SbiShape Experts(SbiKind kind, int outputs, int inputs, int tokens) {
  SbiShape shape = Dense(outputs, inputs, tokens);
  shape.kind = kind;
  shape.slots = 128;
  shape.top_k = 8;
  return shape;
}

TEST(SbiGemmConfig, DecodeOfOneTokenIsBalancedAndPaired) {
  SbiShape attention = Dense(2048, 4096, 1);
  attention.prologue = SbiPrologue::kAttention;
  attention.attention_splits = 16;
  SbiShape head = Dense(151936, 2048, 1);
  head.splits_max = 1;
  for (const SbiShape& shape :
       {Dense(5120, 2048, 1), Dense(2048, 4096, 1), attention, head, Dense(6144, 2048, 1),
        Experts(SbiKind::kGateUp, 1536, 2048, 1), Experts(SbiKind::kDown, 2048, 768, 1)}) {
    const auto config = ChooseSbiConfig(shape);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_LE(SbiImbalance(shape, *config), 1.04) << shape.outputs << "x" << shape.inputs;
    EXPECT_LE(config->shared.total, kPaired);
    EXPECT_FALSE(config->streamed);
    EXPECT_GE(config->ring_slots * config->slot_tiles * config->tile_bytes * kSbiWarps, 64 << 10);
  }
}

TEST(SbiGemmConfig, EveryShapeGetsAConfigThatFits) {
  for (const int outputs : {16, 64, 257, 2048, 5120, 14336}) {
    for (const int inputs : {8, 64, 80, 768, 2048, 4096, 8192}) {
      for (int tokens = 1; tokens <= kSbiTokensMax; ++tokens) {
        for (const SbiKind kind : {SbiKind::kDense, SbiKind::kGateUp, SbiKind::kDown}) {
          SbiShape shape = kind == SbiKind::kDense ? Dense(outputs, inputs, tokens)
                                                   : Experts(kind, outputs, inputs, tokens);
          const auto config = ChooseSbiConfig(shape);
          ASSERT_TRUE(config.ok()) << config.status();
          EXPECT_LE(config->shared.total, 227 * 1024);
          EXPECT_GE(config->ring_slots, 2);
          EXPECT_LE(config->blocks, shape.sm_count);
          EXPECT_GE(config->blocks, 1);
          EXPECT_EQ(config->blocks % config->splits, 0);
          EXPECT_GE(8 * config->token_tiles, tokens);
          EXPECT_LE(config->splits, (inputs + 63) / 64);
        }
      }
    }
  }
}

TEST(SbiGemmConfig, PlainRowsAreNotSplit) {
  for (const int tokens : {1, 8, 64}) {
    SbiShape shape = Dense(50304, 2048, tokens);
    shape.splits_max = 1;
    const auto config = ChooseSbiConfig(shape);
    ASSERT_TRUE(config.ok()) << config.status();
    EXPECT_EQ(config->splits, 1);
    EXPECT_LE(SbiImbalance(shape, *config), 1.04);
  }
}

TEST(SbiGemmConfig, ManyAttentionSplitsCutTheInputs) {
  SbiShape shape = Dense(2048, 4096, 1);
  shape.prologue = SbiPrologue::kAttention;
  shape.attention_splits = 32;
  EXPECT_GE(ChooseSbiConfig(shape)->splits, 4);
  shape.attention_splits = 1;
  EXPECT_LE(ChooseSbiConfig(shape)->splits, 2);
}

TEST(SbiGemmConfig, RefusesWhatNoKernelServes) {
  EXPECT_FALSE(ChooseSbiConfig(Dense(64, 64, 0)).ok());
  EXPECT_FALSE(ChooseSbiConfig(Dense(64, 64, 65)).ok());
  EXPECT_FALSE(ChooseSbiConfig(Dense(0, 64, 1)).ok());
  SbiShape norm = Dense(64, 16384, 1);
  norm.prologue = SbiPrologue::kNorm;
  EXPECT_FALSE(ChooseSbiConfig(norm).ok());
  SbiShape wide = Dense(64, 8192, 64);
  wide.prologue = SbiPrologue::kAttention;
  wide.splits_max = 1;
  EXPECT_FALSE(ChooseSbiConfig(wide).ok());
}

}  // namespace
}  // namespace conclave
