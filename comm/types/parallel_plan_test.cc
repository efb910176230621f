#include "comm/types/parallel_plan.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

using testing::HasSubstr;

TEST(ParallelPlanTest, NamesOfSchedulesAndFormatsParseBack) {
  for (int i = 0; i < 3; ++i) {
    const auto kind = static_cast<ExchangeKind>(i);
    const auto parsed = ParseExchangeKind(ExchangeKindName(kind));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, kind);
  }
  for (int i = 0; i < 4; ++i) {
    const auto format = static_cast<PayloadFormat>(i);
    const auto parsed = ParsePayloadFormat(PayloadFormatName(format));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(*parsed, format);
  }
}

TEST(ParallelPlanTest, UnknownNamesAreRefusedWithTheKnownOnes) {
  EXPECT_THAT(std::string(ParseExchangeKind("ring").status().message()),
              HasSubstr("--exchange 'ring': use naive, pcc or two-level"));
  EXPECT_THAT(std::string(ParsePayloadFormat("f64").status().message()),
              HasSubstr("--exchange-dtype 'f64': use float32, bfloat16, int8 or fp8"));
}

}  // namespace
}  // namespace conclave
