// What Conclave uses of ICU works without ICU's data, and the rest fails with an error.
#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>
#include <unicode/uchar.h>

#include <string>

#include "gtest/gtest.h"

namespace {

TEST(IcuTest, NormalisesToNfc) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  ASSERT_TRUE(U_SUCCESS(error)) << u_errorName(error);
  std::string out;
  icu::StringByteSink<std::string> sink(&out);
  nfc->normalizeUTF8(0, "e\u0301 \u1100\u1161 \u00e9", sink, nullptr, error);
  ASSERT_TRUE(U_SUCCESS(error)) << u_errorName(error);
  EXPECT_EQ(out, "\u00e9 \uac00 \u00e9");
}

TEST(IcuTest, KnowsTheCategoriesOfCharacters) {
  EXPECT_TRUE(u_hasBinaryProperty(0x4e2d, UCHAR_ALPHABETIC));
  EXPECT_TRUE(u_hasBinaryProperty(0x200d, UCHAR_JOIN_CONTROL));
  EXPECT_TRUE(u_isUWhiteSpace(0x3000));
  EXPECT_FALSE(u_isUWhiteSpace('a'));
  EXPECT_EQ(u_charType(0x0661), U_DECIMAL_DIGIT_NUMBER);
}

TEST(IcuTest, WhatNeedsDataSaysSo) {
  UErrorCode error = U_ZERO_ERROR;
  icu::Normalizer2::getNFKCInstance(error);
  EXPECT_TRUE(U_FAILURE(error)) << "the bundle grew by ICU's data: see icu_no_data.cc";
}

}  // namespace
