#include "comm/base/dtype.h"

#include <cmath>
#include <limits>

#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(DtypeTest, EveryF16SurvivesARoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000u; ++bits) {
    const float value = F16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(F16ToFloat(FloatToF16(value))));
    } else {
      EXPECT_EQ(FloatToF16(value), bits);
    }
  }
}

TEST(DtypeTest, F16RoundsToNearestEven) {
  EXPECT_EQ(FloatToF16(1.0f + 0x1p-11f), FloatToF16(1.0f));
  EXPECT_EQ(FloatToF16(1.0f + 3 * 0x1p-11f), FloatToF16(1.0f + 2 * 0x1p-10f));
  EXPECT_EQ(FloatToF16(65520.0f), 0x7c00u);
  EXPECT_EQ(FloatToF16(65519.0f), 0x7bffu);
  EXPECT_EQ(FloatToF16(0x1p-25f), 0u);
}

TEST(DtypeTest, Bf16RoundsToNearestEvenAndKeepsNan) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80u);
  EXPECT_EQ(FloatToBf16(1.0f + 0x1p-8f), 0x3f80u);
  EXPECT_EQ(FloatToBf16(1.0f + 3 * 0x1p-8f), 0x3f82u);
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::numeric_limits<float>::quiet_NaN()))));
}

TEST(DtypeTest, ParsesTheSpellingsOfConfigsAndSafetensors) {
  EXPECT_EQ(*ParseDtype("bfloat16"), Dtype::kBf16);
  EXPECT_EQ(*ParseDtype("BF16"), Dtype::kBf16);
  EXPECT_EQ(*ParseDtype("F32"), Dtype::kF32);
  EXPECT_EQ(ParseDtype("complex64").status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
