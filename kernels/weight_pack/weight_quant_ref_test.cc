#include "kernels/weight_pack/weight_quant_ref.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/weight_pack/weight_pack_test_kit.h"

namespace conclave {
namespace {

struct Packed {
  WeightView view;
  std::vector<uint8_t> tiles;
};

// Bytes of 0xff: what is not written shows.
Packed Poisoned(FormatCase c, MatrixShape shape) {
  Packed packed;
  packed.view = MakeView(c, shape);
  packed.tiles.assign(packed.view.matrix_bytes * packed.view.matrices, 0xff);
  packed.view.data = packed.tiles.data();
  return packed;
}

PackRowsArgs WholeRows(const Packed& packed, const SourceRows& source, Dtype dtype) {
  PackRowsArgs args;
  args.out = packed.view;
  args.count = packed.view.outputs;
  args.dtype = dtype;
  args.columns = packed.view.inputs;
  args.source = source.bytes.data();
  return args;
}

// The largest error of a number x in a group of this largest magnitude.
float ErrorBound(WeightFormat format, float x, float absmax) {
  const float rounded_scale = absmax * 0x1p-8f;  // of a bf16 scale
  switch (format) {
    case WeightFormat::kFp8:
      return std::max(std::fabs(x) * 0x1p-4f, absmax / 448 * 0x1p-10f) * 1.0001f;
    case WeightFormat::kInt8:
      return absmax * 0.5f / 127 * 1.0001f;
    case WeightFormat::kInt4:
      return absmax * 0.5f / 7 + rounded_scale;
    case WeightFormat::kNf4:
      return absmax * 0.1520f + rounded_scale;  // half of the widest gap, -1 .. -0.696
    case WeightFormat::kMxfp4:
      return absmax / 4;  // 8 saturates at 6, and 5 is between 4 and 6
    default:
      return std::fabs(x) * 0x1p-8f;
  }
}

TEST(WeightQuantRef, WeightsComeBackWithinTheFormatsError) {
  Rng rng(1);
  for (const FormatCase c : QuantCases()) {
    SCOPED_TRACE(CaseName(c));
    const MatrixShape shape = {35, 328};
    Packed packed = Poisoned(c, shape);
    const SourceRows source = RandomSource(rng, Dtype::kF32, int64_t{shape.outputs} * shape.inputs);
    ASSERT_TRUE(PackRowsRef(WholeRows(packed, source, Dtype::kF32)).ok());
    const std::vector<float> weights = Dequantise(packed.view, 0);
    for (int row = 0; row < shape.outputs; ++row) {
      const float* const x = &source.values[int64_t{row} * shape.inputs];
      for (int first = 0; first < shape.inputs; first += c.group) {
        const int end = std::min(first + c.group, shape.inputs);
        float absmax = 0;
        for (int k = first; k < end; ++k) absmax = std::max(absmax, std::fabs(x[k]));
        for (int k = first; k < end; ++k) {
          ASSERT_NEAR(weights[int64_t{row} * shape.inputs + k], x[k],
                      ErrorBound(c.format, x[k], absmax))
              << row << " " << k << " of absmax " << absmax;
        }
      }
    }
  }
}

TEST(WeightQuantRef, PlainFormatsKeepTheirNumbers) {
  Rng rng(2);
  const struct {
    WeightFormat format;
    Dtype dtype;
  } cases[] = {{WeightFormat::kBf16, Dtype::kBf16},
               {WeightFormat::kF16, Dtype::kF16},
               {WeightFormat::kF32, Dtype::kF32},
               {WeightFormat::kF32, Dtype::kBf16}};
  for (const auto& c : cases) {
    Packed packed = Poisoned({c.format, 0}, {19, 70});
    const SourceRows source = RandomSource(rng, c.dtype, 19 * 70);
    ASSERT_TRUE(PackRowsRef(WholeRows(packed, source, c.dtype)).ok());
    EXPECT_EQ(Dequantise(packed.view, 0), source.values) << FormatName(c.format);
    EXPECT_EQ(WeightAt(packed.view, 0, 18, 70), 0);  // padding
  }
}

TEST(WeightQuantRef, InputsBeyondTheLastAreZeros) {
  Rng rng(3);
  for (const FormatCase c : AllCases()) {
    Packed packed = Poisoned(c, {16, 70});
    const SourceRows source = RandomSource(rng, Dtype::kF32, 16 * 70);
    ASSERT_TRUE(PackRowsRef(WholeRows(packed, source, Dtype::kF32)).ok());
    for (int row = 0; row < 16; ++row) {
      for (int k = 70; k < 128; ++k) ASSERT_EQ(WeightAt(packed.view, 0, row, k), 0);
    }
  }
}

TEST(WeightQuantRef, ATileOfZeroBytesIsZeros) {
  for (const FormatCase c : AllCases()) {
    Packed packed = Poisoned(c, {16, 64});
    std::fill(packed.tiles.begin(), packed.tiles.end(), 0);
    for (const float weight : Dequantise(packed.view, 0)) ASSERT_EQ(weight, 0) << CaseName(c);
  }
}

TEST(WeightQuantRef, RowsAndColumnRangesPackInAnyOrder) {
  Rng rng(4);
  for (const FormatCase c : AllCases()) {
    SCOPED_TRACE(CaseName(c));
    const int unit = std::max(c.group, 64);
    const int inputs = 2 * unit + 40;
    Packed whole = Poisoned(c, {40, inputs, 2}), parts = Poisoned(c, {40, inputs, 2});
    const SourceRows source = RandomSource(rng, Dtype::kBf16, 40 * inputs);
    PackRowsArgs args = WholeRows(whole, source, Dtype::kBf16);
    args.matrix = 1;
    ASSERT_TRUE(PackRowsRef(args).ok());
    for (const int first : {27, 0, 13}) {
      for (const int column : {2 * unit, 0, unit}) {
        PackRowsArgs part = args;
        part.out = parts.view;
        part.first = first;
        part.count = std::min(14, 40 - first);
        part.first_column = column;
        part.columns = std::min(unit, inputs - column);
        part.source = &source.bytes[(int64_t{first} * inputs + column) * 2];
        part.source_stride = inputs;
        ASSERT_TRUE(PackRowsRef(part).ok());
      }
    }
    EXPECT_EQ(whole.tiles, parts.tiles);
  }
}

TEST(WeightQuantRef, GateAndUpRowsInterleave) {
  Rng rng(5);
  for (const FormatCase c : AllCases()) {
    const int ffn = 24, inputs = 64;
    Packed both = Poisoned(c, {2 * ffn, inputs}), plain = Poisoned(c, {2 * ffn, inputs});
    const SourceRows source = RandomSource(rng, Dtype::kF32, 2 * ffn * inputs);
    PackRowsArgs args = WholeRows(both, source, Dtype::kF32);
    ASSERT_TRUE(PackRowsRef(WholeRows(plain, source, Dtype::kF32)).ok());
    args.placement = RowPlacement::kGate;
    args.first = 5;
    args.count = ffn - 5;
    args.source = &source.bytes[5 * inputs * 4];
    ASSERT_TRUE(PackRowsRef(args).ok());
    args.placement = RowPlacement::kUp;
    args.first = 0;
    args.count = ffn;
    args.source = &source.bytes[ffn * inputs * 4];
    ASSERT_TRUE(PackRowsRef(args).ok());
    for (int row = 0; row < ffn; ++row) {
      for (int k = 0; k < inputs; ++k) {
        if (row >= 5) {
          ASSERT_EQ(WeightAt(both.view, 0, GateOutput(row), k), WeightAt(plain.view, 0, row, k));
        }
        ASSERT_EQ(WeightAt(both.view, 0, UpOutput(row), k), WeightAt(plain.view, 0, ffn + row, k));
      }
    }
  }
}

TEST(WeightQuantRef, BadArgumentsAreNamed) {
  Rng rng(6);
  Packed packed = Poisoned({WeightFormat::kInt4, 128}, {32, 300});
  const SourceRows source = RandomSource(rng, Dtype::kF32, 32 * 300);
  const PackRowsArgs good = WholeRows(packed, source, Dtype::kF32);
  ASSERT_TRUE(CheckPackRows(good).ok());
  const auto message = [](const PackRowsArgs& args) {
    return std::string(CheckPackRows(args).message());
  };
  PackRowsArgs args = good;
  args.out.group = 0;
  EXPECT_NE(message(args).find("out.group"), std::string::npos);
  args = good;
  args.count = 33;
  EXPECT_NE(message(args).find("count"), std::string::npos);
  args = good;
  args.matrix = 1;
  EXPECT_NE(message(args).find("matrix"), std::string::npos);
  args = good;
  args.first_column = 64;
  args.columns = 236;
  EXPECT_NE(message(args).find("first_column"), std::string::npos);
  args = good;
  args.columns = 192;
  EXPECT_NE(message(args).find("columns"), std::string::npos);
  args = good;
  args.dtype = Dtype::kU8;
  EXPECT_NE(message(args).find("dtype"), std::string::npos);
  args = good;
  args.source_stride = 200;
  EXPECT_NE(message(args).find("source_stride"), std::string::npos);
  args = good;
  args.placement = RowPlacement::kUp;  // row 31 of a gate or up matrix would be output 63
  EXPECT_NE(message(args).find("count"), std::string::npos);
}

}  // namespace
}  // namespace conclave
