#include "comm/base/rng.h"

#include "gtest/gtest.h"

namespace conclave {
namespace {

// Known answers of the Random123 distribution (kat_vectors, philox4x32 10).
TEST(RngTest, PhiloxKnownAnswers) {
  EXPECT_EQ(Philox({0, 0, 0, 0}, {0, 0}),
            (std::array<uint32_t, 4>{0x6627e8d5u, 0xe169c58du, 0xbc57ac4cu, 0x9b00dbd8u}));
  const uint32_t ones = 0xffffffffu;
  EXPECT_EQ(Philox({ones, ones, ones, ones}, {ones, ones}),
            (std::array<uint32_t, 4>{0x408f276du, 0x41c83b0eu, 0xa20bc7c6u, 0x6d5451fdu}));
  EXPECT_EQ(
      Philox({0x243f6a88u, 0x85a308d3u, 0x13198a2eu, 0x03707344u}, {0xa4093822u, 0x299f31d0u}),
      (std::array<uint32_t, 4>{0xd16cfe09u, 0x94fdccebu, 0x5001e420u, 0x24126ea1u}));
}

TEST(RngTest, UniformDependsOnSeedAndPositionOnly) {
  EXPECT_EQ(UniformAt(7, 100), UniformAt(7, 100));
  EXPECT_NE(UniformAt(7, 100), UniformAt(7, 101));
  EXPECT_NE(UniformAt(7, 100), UniformAt(8, 100));
  double sum = 0;
  for (int i = 0; i < 10000; ++i) sum += UniformAt(3, i);
  EXPECT_NEAR(sum / 10000, 0.5, 0.01);
}

TEST(RngTest, BelowStaysBelow) {
  Rng rng(1);
  for (int i = 0; i < 1000; ++i) EXPECT_LT(rng.Below(7), 7u);
}

}  // namespace
}  // namespace conclave
