#include "worker/model/cuda/step_pieces.h"

#include "gtest/gtest.h"
#include "worker/model/cuda/decode_bucket.h"

namespace conclave {
namespace {

SequenceSlice Slice(int32_t position, int32_t count, bool sample) {
  SequenceSlice slice;
  slice.request = RequestId{static_cast<uint64_t>(position + 1)};
  slice.position = position;
  for (int32_t i = 0; i < count; ++i) slice.tokens.push_back(position + i);
  for (int32_t p = 0; p * 4 < position + count; ++p) slice.pages.push_back(100 + p);
  slice.sample = sample;
  return slice;
}

StepPlan Plan() {
  StepPlan plan;
  plan.epoch = Epoch{3};
  plan.step = StepId{7};
  plan.batch = {Slice(0, 5, true), Slice(10, 1, true), Slice(2, 9, false)};
  plan.tokens_by_dp = {15};
  return plan;
}

TEST(StepPiecesTest, AStepThatFitsIsOnePiece) {
  const StepPlan plan = Plan();
  const auto pieces = CutIntoPieces(plan, 15, 4);
  ASSERT_EQ(pieces.size(), 1u);
  EXPECT_EQ(pieces[0], plan);
}

TEST(StepPiecesTest, PiecesHoldAllTokensInOrderAndSampleAtTheLast) {
  const StepPlan plan = Plan();
  for (int32_t tokens_max = 1; tokens_max < 15; ++tokens_max) {
    std::vector<std::vector<int32_t>> tokens(20);
    int sampled = 0;
    for (const StepPlan& piece : CutIntoPieces(plan, tokens_max, 4)) {
      int32_t in_piece = 0;
      for (const SequenceSlice& slice : piece.batch) {
        auto& seen = tokens[slice.request.value];
        for (const int32_t token : slice.tokens) seen.push_back(token);
        in_piece += static_cast<int32_t>(slice.tokens.size());
        EXPECT_EQ(slice.tokens.front(), slice.position);
        const int32_t end = slice.position + static_cast<int32_t>(slice.tokens.size());
        EXPECT_EQ(static_cast<int32_t>(slice.pages.size()), (end + 3) / 4);
        sampled += slice.sample ? 1 : 0;
      }
      EXPECT_LE(in_piece, tokens_max);
      EXPECT_EQ(piece.tokens_by_dp, std::vector<int32_t>{in_piece});
    }
    for (const SequenceSlice& slice : plan.batch) {
      EXPECT_EQ(tokens[slice.request.value], slice.tokens) << tokens_max;
    }
    EXPECT_EQ(sampled, 2);
  }
}

TEST(DecodeBucketTest, HoldsTheBatchAndIsExactWhenSmall) {
  for (int32_t tokens = 1; tokens <= kDecodeTokensMax; ++tokens) {
    EXPECT_GE(DecodeBucket(tokens), tokens);
    EXPECT_LE(DecodeBucket(tokens), kDecodeTokensMax);
    if (tokens <= 32) EXPECT_EQ(DecodeBucket(tokens), tokens);
  }
  EXPECT_EQ(ContextBucket(1), 512);
  EXPECT_EQ(ContextBucket(513), 1024);
}

}  // namespace
}  // namespace conclave
