#include "comm/exchange/payload.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"

namespace conclave {
namespace {

constexpr PayloadFormat kFormats[] = {PayloadFormat::kF32, PayloadFormat::kBf16,
                                      PayloadFormat::kInt8, PayloadFormat::kFp8};
constexpr int kSizes[] = {1, 2, 3, 7, 16, 127, 128, 129, 255, 257, 1000, 7168};

std::vector<float> RandomRow(int hidden, Rng& rng) {
  // Magnitudes over many powers of two, so that every exponent of a format is met.
  const int spread = 1 + static_cast<int>(rng.Below(40));
  const int middle = static_cast<int>(rng.Below(120)) - 60;
  std::vector<float> row(hidden);
  for (float& v : row) {
    v = std::ldexp(static_cast<float>(rng.Uniform() * 2 - 1),
                   middle - static_cast<int>(rng.Below(spread)));
    if (rng.Chance(1, 20)) v = 0;
  }
  return row;
}

std::vector<uint8_t> Encoded(const RowFormat& format, const std::vector<float>& row) {
  std::vector<uint8_t> bytes(format.bytes() + 3, 0xa5);
  EncodeRow(format, row.data(), bytes.data() + 1);  // at an odd address
  EXPECT_EQ(bytes.front(), 0xa5);
  EXPECT_EQ(bytes[bytes.size() - 2], 0xa5) << "wrote past the row";
  return {bytes.begin() + 1, bytes.end() - 2};
}

std::vector<float> Decoded(const RowFormat& format, const std::vector<uint8_t>& bytes) {
  std::vector<uint8_t> odd(bytes.size() + 1);
  std::copy(bytes.begin(), bytes.end(), odd.begin() + 1);
  std::vector<float> row(format.hidden);
  DecodeRow(format, odd.data() + 1, row.data());
  return row;
}

float LargestOf(const std::vector<float>& row, int begin, int end) {
  float largest = 0;
  for (int i = begin; i < end; ++i) largest = std::max(largest, std::fabs(row[i]));
  return largest;
}

// The bound that payload.h states for element i.
double BoundOf(PayloadFormat payload, const std::vector<float>& row, int i) {
  const int hidden = static_cast<int>(row.size());
  const double x = std::fabs(row[i]);
  switch (payload) {
    case PayloadFormat::kF32:
      return 0;
    case PayloadFormat::kBf16:
      return x * 0x1p-8;
    case PayloadFormat::kInt8:
      return LargestOf(row, 0, hidden) / 127.0 * 0.5;
    case PayloadFormat::kFp8: {
      const int begin = i / kFp8Group * kFp8Group;
      const double largest = LargestOf(row, begin, std::min(hidden, begin + kFp8Group));
      return std::max(x / 16, largest / 448 / 1024);
    }
  }
  return -1;
}

TEST(PayloadTest, SizesOfRows) {
  EXPECT_EQ(RowFormat(7168).bytes(), 7168 * 4);
  EXPECT_EQ(RowFormat(7168, PayloadFormat::kBf16).bytes(), 7168 * 2);
  EXPECT_EQ(RowFormat(7168, PayloadFormat::kInt8).bytes(), 7168 + 4);
  EXPECT_EQ(RowFormat(7168, PayloadFormat::kFp8).bytes(), 7168 + 56 * 4);
  EXPECT_EQ(RowFormat(129, PayloadFormat::kFp8).bytes(), 129 + 2 * 4);
  EXPECT_EQ(RowFormat(1, PayloadFormat::kFp8).bytes(), 5);
}

TEST(PayloadTest, EncodesAndDecodesAsTheReference) {
  Rng rng(1);
  for (const PayloadFormat payload : kFormats) {
    for (const int hidden : kSizes) {
      const RowFormat format(hidden, payload);
      for (int repeat = 0; repeat < (hidden > 1000 ? 2 : 20); ++repeat) {
        const std::vector<float> row = RandomRow(hidden, rng);
        const std::vector<uint8_t> bytes = Encoded(format, row);
        std::vector<uint8_t> expected(format.bytes());
        EncodeRowRef(format, row.data(), expected.data());
        ASSERT_EQ(bytes, expected) << PayloadFormatName(payload) << " of " << hidden;
        std::vector<float> values(hidden);
        DecodeRowRef(format, bytes.data(), values.data());
        const std::vector<float> decoded = Decoded(format, bytes);
        ASSERT_EQ(std::memcmp(decoded.data(), values.data(), hidden * sizeof(float)), 0)
            << PayloadFormatName(payload) << " of " << hidden;
      }
    }
  }
}

TEST(PayloadTest, ErrorsStayWithinTheStatedBounds) {
  Rng rng(2);
  for (const PayloadFormat payload : kFormats) {
    for (const int hidden : kSizes) {
      for (int repeat = 0; repeat < 20; ++repeat) {
        const std::vector<float> row = RandomRow(hidden, rng);
        const RowFormat format(hidden, payload);
        const std::vector<float> back = Decoded(format, Encoded(format, row));
        for (int i = 0; i < hidden; ++i) {
          const double error = std::fabs(static_cast<double>(back[i]) - row[i]);
          // The scale itself is a rounded float.
          ASSERT_LE(error, BoundOf(payload, row, i) * (1 + 1e-5) + std::fabs(row[i]) * 0x1p-22)
              << PayloadFormatName(payload) << " of " << hidden << ": " << row[i];
        }
      }
    }
  }
}

TEST(PayloadTest, EveryCodeDecodesAsTheReference) {
  for (const PayloadFormat payload : {PayloadFormat::kInt8, PayloadFormat::kFp8}) {
    const RowFormat format(kFp8Group, payload);
    for (int half = 0; half < 2; ++half) {
      std::vector<uint8_t> bytes(format.bytes());
      const float scale = 0.37f;
      std::memcpy(bytes.data(), &scale, sizeof(scale));
      for (int i = 0; i < kFp8Group; ++i) {
        bytes[4 + i] = static_cast<uint8_t>(half * kFp8Group + i);
      }
      std::vector<float> expected(kFp8Group);
      DecodeRowRef(format, bytes.data(), expected.data());
      const std::vector<float> values = Decoded(format, bytes);
      for (int i = 0; i < kFp8Group; ++i) {
        if (std::isnan(expected[i])) {
          EXPECT_TRUE(std::isnan(values[i])) << i;
        } else {
          EXPECT_EQ(values[i], expected[i]) << PayloadFormatName(payload) << " code " << i;
        }
      }
    }
  }
}

TEST(PayloadTest, ZeroAndTinyRowsAreZeros) {
  for (const PayloadFormat payload : kFormats) {
    for (const float value : {0.0f, -0.0f, 0x1p-149f, 0x1p-120f}) {
      const std::vector<float> row(130, value);
      const RowFormat format(130, payload);
      for (const float back : Decoded(format, Encoded(format, row))) {
        ASSERT_LE(std::fabs(back), 0x1p-119f) << PayloadFormatName(payload);
      }
    }
  }
}

TEST(PayloadTest, WhatIsNoNumberNeverBecomesOne) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const PayloadFormat payload : kFormats) {
    for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
      std::vector<float> row(300);
      for (int i = 0; i < 300; ++i) row[i] = static_cast<float>(i) - 150;
      row[131] = bad;
      const RowFormat format(300, payload);
      const std::vector<float> back = Decoded(format, Encoded(format, row));
      EXPECT_FALSE(std::isfinite(back[131])) << PayloadFormatName(payload);
      for (int i = 0; i < 300; ++i) {
        const bool poisoned = payload == PayloadFormat::kInt8 ||
                              (payload == PayloadFormat::kFp8 && i / kFp8Group == 1);
        if (poisoned) {
          EXPECT_TRUE(std::isnan(back[i])) << PayloadFormatName(payload) << " " << i;
        } else if (i != 131) {
          EXPECT_NEAR(back[i], row[i], 10) << PayloadFormatName(payload) << " " << i;
        }
      }
    }
  }
}

// The largest float is a number in every format.
TEST(PayloadTest, TheLargestFloatsStayNumbers) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const PayloadFormat payload : {PayloadFormat::kInt8, PayloadFormat::kFp8}) {
    const RowFormat format(4, payload);
    const std::vector<float> back =
        Decoded(format, Encoded(format, {kLargest, -kLargest, kLargest / 2, 1}));
    EXPECT_TRUE(std::isfinite(back[0]) && back[0] > kLargest * 0.999f) << back[0];
    EXPECT_TRUE(std::isfinite(back[1]) && back[1] < -kLargest * 0.999f) << back[1];
  }
}

}  // namespace
}  // namespace conclave
