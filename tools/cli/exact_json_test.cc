#include "tools/cli/exact_json.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

TEST(ExactJsonTest, DoublesSurviveBitForBit) {
  // The steps of an irrational factor visit mantissas of every kind.
  double number = 1e-300;
  for (int i = 0; i < 4000; ++i, number *= 1.4142135623730951) {
    if (!std::isfinite(number)) break;
    boost::json::object out;
    out["x"] = number;
    const auto back = ParseExactJson(PrettyJson(out), "test");
    ASSERT_TRUE(back.ok()) << back.status();
    const boost::json::value& x = back->at("x");
    EXPECT_EQ(x.is_double() ? x.get_double() : static_cast<double>(x.get_int64()), number);
  }
}

TEST(ExactJsonTest, LayoutIsStable) {
  boost::json::object out;
  out["name"] = "a \"b\"";
  out["list"] = {1, 2.5, true, nullptr};
  out["rows"] = boost::json::array{boost::json::array{1}, boost::json::object{}};
  out["big"] = 0x1p65;
  EXPECT_EQ(PrettyJson(out),
            "{\n  \"name\": \"a \\\"b\\\"\",\n  \"list\": [1, 2.5, true, null],\n"
            "  \"rows\": [\n    [1],\n    {}\n  ],\n  \"big\": 3.6893488147419103e+19\n}\n");
}

TEST(ExactJsonTest, BadTextIsRefusedByName) {
  for (const char* text : {"", "{", "[1,]", "{\"a\": nan}", "\"\xff\"", "[1] 2", "{'a': 1}"}) {
    const auto parsed = ParseExactJson(text, "plan.json");
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(parsed.status().message(), testing::HasSubstr("plan.json: "));
  }
  const std::string deep = std::string(40, '[') + std::string(40, ']');
  EXPECT_THAT(ParseExactJson(deep, "plan.json").status().message(), testing::HasSubstr("32 deep"));
}

}  // namespace
}  // namespace conclave
