#include "kernels/weight_pack/quant_codes.h"

#include <cmath>
#include <limits>

#include "comm/base/dtype.h"
#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/weight_pack/weight_quant_ref.h"

namespace conclave {
namespace {

// Whether no code's value is nearer to x than that of `code`.
bool IsNearest(WeightFormat format, float x, uint32_t code) {
  const double distance = std::fabs(double{CodeValue(format, code)} - x);
  for (uint32_t other = 0; other < 1u << CodeBits(format); ++other) {
    const double value = CodeValue(format, other);
    if (!std::isnan(value) && std::fabs(value - x) < distance) return false;
  }
  return true;
}

TEST(QuantCodes, EveryE4m3NumberIsItsOwnCode) {
  for (uint32_t code = 0; code < 256; ++code) {
    const float value = CodeValue(WeightFormat::kFp8, code);
    if (!std::isnan(value)) EXPECT_EQ(E4m3Code(value), code) << value;
  }
  EXPECT_EQ(CodeValue(WeightFormat::kFp8, 0x7e), 448);
  EXPECT_EQ(CodeValue(WeightFormat::kFp8, 0x01), 0x1p-9f);
  EXPECT_EQ(CodeValue(WeightFormat::kFp8, 0x38), 1);
  EXPECT_EQ(E4m3Code(1e9f), 0x7eu);
  EXPECT_EQ(E4m3Code(-std::numeric_limits<float>::infinity()), 0xfeu);
}

TEST(QuantCodes, E4m3TiesGoToEven) {
  for (uint32_t code = 0; code < 0x7e; ++code) {
    const float between =
        (CodeValue(WeightFormat::kFp8, code) + CodeValue(WeightFormat::kFp8, code + 1)) / 2;
    EXPECT_EQ(E4m3Code(between), code + code % 2) << between;
    EXPECT_EQ(E4m3Code(-between), (code + code % 2) | 0x80) << between;
    EXPECT_EQ(E4m3Code(std::nextafter(between, 0.0f)), code) << between;
    EXPECT_EQ(E4m3Code(std::nextafter(between, 1e9f)), code + 1) << between;
  }
}

TEST(QuantCodes, EveryE2m1NumberIsItsOwnCodeAndTiesGoToEven) {
  for (uint32_t code = 0; code < 16; ++code) {
    const float value = CodeValue(WeightFormat::kMxfp4, code);
    EXPECT_EQ(E2m1Code(value), code == 8 ? 0 : code);  // -0 is stored as 0
  }
  for (uint32_t code = 0; code < 7; ++code) {
    const float between =
        (CodeValue(WeightFormat::kMxfp4, code) + CodeValue(WeightFormat::kMxfp4, code + 1)) / 2;
    EXPECT_EQ(E2m1Code(between), code + code % 2);
    EXPECT_EQ(E2m1Code(std::nextafter(between, 0.0f)), code);
    EXPECT_EQ(E2m1Code(std::nextafter(between, 9.0f)), code + 1);
  }
  EXPECT_EQ(E2m1Code(-7.9f), 15u);
}

TEST(QuantCodes, Nf4IsTheTableOfBitsandbytes) {
  EXPECT_EQ(Nf4Value(0), -1);
  EXPECT_EQ(Nf4Value(7), 0);
  EXPECT_EQ(Nf4Value(15), 1);
  for (int code = 0; code < 16; ++code) {
    EXPECT_EQ(Nf4Code(Nf4Value(code)), static_cast<uint32_t>(code));
    if (code > 0) EXPECT_LT(Nf4Value(code - 1), Nf4Value(code));
    EXPECT_EQ(CodeValue(WeightFormat::kNf4, code), Bf16ToFloat(FloatToBf16(Nf4Value(code))));
  }
  EXPECT_EQ(Nf4Code(-2), 0u);
  EXPECT_EQ(Nf4Code(2), 15u);
}

TEST(QuantCodes, NumbersBecomeTheNearestCode) {
  Rng rng(11);
  for (int i = 0; i < 20000; ++i) {
    const float x = static_cast<float>(rng.Uniform() * 2 - 1);
    EXPECT_TRUE(IsNearest(WeightFormat::kMxfp4, x * 6, CodeOf(WeightFormat::kMxfp4, x * 6, 1)));
    EXPECT_TRUE(IsNearest(WeightFormat::kInt8, x * 127, CodeOf(WeightFormat::kInt8, x * 127, 1)));
    EXPECT_TRUE(IsNearest(WeightFormat::kInt4, x * 7, CodeOf(WeightFormat::kInt4, x * 7, 1)));
    const float small = std::ldexp(x, -static_cast<int>(rng.Below(20)));
    EXPECT_TRUE(IsNearest(WeightFormat::kFp8, small, CodeOf(WeightFormat::kFp8, small, 1)));
  }
}

TEST(QuantCodes, Bf16RoundsAsTheHostDoes) {
  Rng rng(12);
  for (int i = 0; i < 100000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(rng.Next()));
    ASSERT_EQ(Bf16Bits(value), FloatToBf16(value));
  }
}

TEST(QuantCodes, StoredScalesGiveTheDivisorBack) {
  Rng rng(13);
  for (int i = 0; i < 10000; ++i) {
    const float absmax = std::ldexp(static_cast<float>(rng.Uniform()) + 0.01f,
                                    static_cast<int>(rng.Below(120)) - 90);
    const QuantScale int8 = ScaleOf(WeightFormat::kInt8, absmax);
    EXPECT_EQ(std::bit_cast<float>(int8.stored) * FragmentUnit(WeightFormat::kInt8), int8.divisor);
    const QuantScale int4 = ScaleOf(WeightFormat::kInt4, absmax);
    EXPECT_EQ(Bf16Value(int4.stored) * FragmentUnit(WeightFormat::kInt4), int4.divisor);
    const QuantScale mxfp4 = ScaleOf(WeightFormat::kMxfp4, absmax);
    EXPECT_EQ(std::ldexp(1.0f, static_cast<int>(mxfp4.stored) - 127), mxfp4.divisor);
    EXPECT_GE(absmax / mxfp4.divisor, 4);
    EXPECT_LT(absmax / mxfp4.divisor, 8);
  }
  EXPECT_EQ(ScaleOf(WeightFormat::kMxfp4, 0).stored, 0u);
  EXPECT_EQ(ScaleOf(WeightFormat::kMxfp4, 0x1p100f).stored, kMxfp4ScaleMax);
  EXPECT_EQ(CodeOf(WeightFormat::kNf4, 0, 0), 7u);
}

}  // namespace
}  // namespace conclave
