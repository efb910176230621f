#include "kernels/weight_pack/quant_tiles.h"

#include <algorithm>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr WeightFormat kQuantised[] = {WeightFormat::kFp8, WeightFormat::kInt8, WeightFormat::kInt4,
                                       WeightFormat::kNf4, WeightFormat::kMxfp4};

uint32_t Codes(WeightFormat format) { return 1u << CodeBits(format); }

// The bits of its word that a code may set.
uint32_t BitsOf(WeightFormat format, const CodePlace& place) {
  uint32_t bits = 0;
  for (uint32_t code = 0; code < Codes(format); ++code) {
    bits |= SpreadCode(format, place.pair, place.second, code);
  }
  return bits;
}

TEST(QuantTiles, TileBytesAreThoseOfTheContract) {
  EXPECT_EQ(TileBytes(WeightFormat::kBf16, 0), 2048);
  EXPECT_EQ(TileBytes(WeightFormat::kF16, 0), 2048);
  EXPECT_EQ(TileBytes(WeightFormat::kF32, 0), 4096);
  for (const WeightFormat format : {WeightFormat::kFp8, WeightFormat::kInt8}) {
    EXPECT_EQ(TileBytes(format, 32), 1152);
    for (const int group : {64, 128, 256}) EXPECT_EQ(TileBytes(format, group), 1088);
  }
  for (const WeightFormat format : {WeightFormat::kInt4, WeightFormat::kNf4}) {
    EXPECT_EQ(TileBytes(format, 32), 576);
    for (const int group : {64, 128, 256}) EXPECT_EQ(TileBytes(format, group), 544);
  }
  EXPECT_EQ(TileBytes(WeightFormat::kMxfp4, 32), 544);
}

TEST(QuantTiles, GroupsAreTheFormatsOwn) {
  EXPECT_EQ(QuantGroup(WeightFormat::kBf16, 128), 0);
  EXPECT_EQ(QuantGroup(WeightFormat::kMxfp4, 128), 32);
  EXPECT_EQ(QuantGroup(WeightFormat::kFp8, 0), 128);
  EXPECT_EQ(QuantGroup(WeightFormat::kInt4, 0), 64);
  EXPECT_EQ(QuantGroup(WeightFormat::kInt4, 256), 256);
  EXPECT_FALSE(IsQuantGroup(WeightFormat::kInt4, 0));
  EXPECT_FALSE(IsQuantGroup(WeightFormat::kInt4, 48));
  EXPECT_FALSE(IsQuantGroup(WeightFormat::kMxfp4, 64));
  EXPECT_FALSE(IsQuantGroup(WeightFormat::kBf16, 64));
}

TEST(QuantTiles, MatricesArePaddedToTilesAndAlignment) {
  WeightView view;
  view.outputs = 17;
  view.inputs = 65;
  view.format = WeightFormat::kInt4;
  view.group = 64;
  EXPECT_EQ(RowGroupBytes(view), 2 * 544);
  EXPECT_EQ(MatrixBytes(view), 3072);  // 2176
  view.format = WeightFormat::kBf16;
  EXPECT_EQ(MatrixBytes(view), 4 * 2048);
}

TEST(QuantTiles, CodesFillThePayloadWithoutOverlap) {
  for (const WeightFormat format : kQuantised) {
    std::vector<uint32_t> words(PayloadBytes(format) / 4);
    std::vector<int> owner(words.size(), -1);
    for (int row = 0; row < kTileOutputs; ++row) {
      for (int column = 0; column < kTileInputs; ++column) {
        const CodePlace place = PlaceOf(format, row, column);
        ASSERT_EQ(place.word % 4, 0);
        ASSERT_LT(place.word, PayloadBytes(format));
        const uint32_t bits = BitsOf(format, place);
        ASSERT_EQ(__builtin_popcount(bits), CodeBits(format));
        ASSERT_EQ(words[place.word / 4] & bits, 0u) << row << " " << column;
        words[place.word / 4] |= bits;
        int& row_of_word = owner[place.word / 4];
        ASSERT_TRUE(row_of_word == -1 || row_of_word == row) << "a word of two rows";
        row_of_word = row;
      }
    }
    for (const uint32_t word : words) ASSERT_EQ(word, ~0u);
  }
}

TEST(QuantTiles, GatherUndoesSpread) {
  for (const WeightFormat format : kQuantised) {
    for (int pair = 0; pair < (CodeBits(format) == 8 ? 2 : 4); ++pair) {
      for (int second = 0; second < 2; ++second) {
        const uint32_t others = ~BitsOf(format, {0, pair, second});
        for (uint32_t code = 0; code < Codes(format); ++code) {
          const uint32_t word = SpreadCode(format, pair, second, code);
          ASSERT_EQ(GatherCode(format, pair, second, word), code);
          ASSERT_EQ(GatherCode(format, pair, second, word | others), code);
        }
      }
    }
  }
}

TEST(QuantTiles, LanesFindTheirFragmentsTogether) {
  // A lane's 16-byte parts hold rows g and g + 8 and its eight columns of each two runs, or four.
  for (const WeightFormat format : kQuantised) {
    for (int row = 0; row < kTileOutputs; ++row) {
      for (int column = 0; column < kTileInputs; ++column) {
        const CodePlace place = PlaceOf(format, row, column);
        const int lane = row % 8 * 4 + column % 8 / 2;
        ASSERT_EQ(place.word % 512 / 16, lane);
        if (CodeBits(format) == 8) ASSERT_EQ(place.word / 512, column / 32);
      }
    }
  }
}

TEST(QuantTiles, ScalesFillTheRestOfATile) {
  for (const WeightFormat format : kQuantised) {
    for (const int32_t group : {32, 64, 128}) {
      if (!IsQuantGroup(format, group)) continue;
      std::vector<int> offsets;
      for (int row = 0; row < kTileOutputs; ++row) {
        for (int s = 0; s < ScaleGroups(format, group); ++s) {
          offsets.push_back(ScaleOffset(format, group, row, s));
        }
        if (row < 8) {  // a lane reads both of its scales at once
          EXPECT_EQ(ScaleOffset(format, group, row + 8, 0),
                    ScaleOffset(format, group, row, 0) + ScaleBytes(format));
        }
      }
      std::sort(offsets.begin(), offsets.end());
      for (size_t i = 0; i < offsets.size(); ++i) {
        ASSERT_EQ(offsets[i], PayloadBytes(format) + static_cast<int>(i) * ScaleBytes(format));
      }
      EXPECT_EQ(offsets.back() + ScaleBytes(format), TileBytes(format, group));
    }
  }
}

TEST(QuantTiles, NamesOfNf4CodesAreAPermutation) {
  for (int code = 0; code < 16; ++code) {
    const int name = static_cast<int>(kNf4NameOfCode >> (4 * code) & 15);
    EXPECT_EQ(static_cast<int>(kNf4CodeOfName >> (4 * name) & 15), code);
  }
}

}  // namespace
}  // namespace conclave
