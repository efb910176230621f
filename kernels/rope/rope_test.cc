#include "kernels/rope/rope.h"

#include <cmath>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

std::vector<float> RandomFloats(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(rng.Uniform() * 4 - 2);
  return values;
}

TEST(RopeFrequencies, FollowTheta) {
  const auto f = RopeFrequencies({8, 10000.0});
  ASSERT_EQ(f.size(), 4u);
  EXPECT_FLOAT_EQ(f[0], 1.0f);
  EXPECT_FLOAT_EQ(f[1], 0.1f);
  EXPECT_FLOAT_EQ(f[2], 0.01f);
  EXPECT_FLOAT_EQ(f[3], 0.001f);
}

// Worked by hand from the definition: context 64, factor 8, low 1, high 4.
TEST(RopeFrequencies, Llama3StretchesLongWavelengths) {
  const RopeOptions plain{16, 500000.0};
  RopeOptions options = plain;
  options.llama3 = true;
  options.factor = 8;
  options.original_context_tokens = 64;
  const auto base = RopeFrequencies(plain), got = RopeFrequencies(options);
  for (size_t i = 0; i < base.size(); ++i) {
    const double wavelength = 2 * M_PI / base[i];
    double want = base[i];
    if (wavelength > 64) {
      want = base[i] / 8;
    } else if (wavelength >= 16) {
      const double smooth = (64 / wavelength - 1) / 3;
      want = (1 - smooth) * base[i] / 8 + smooth * base[i];
    }
    EXPECT_NEAR(got[i], want, 1e-6 * want) << i;
  }
  EXPECT_EQ(got[0], base[0]);
  EXPECT_LT(got[1], base[1]);
  EXPECT_EQ(got.back(), base.back() / 8);
}

struct Case {
  int head_dim;
  int heads;
  bool norm;
};

TEST(NormRope, MatchesTheReferenceWithTheSameBitsOnEveryTarget) {
  for (const Case c : {Case{4, 3, true}, Case{16, 4, false}, Case{20, 2, true}, Case{64, 1, true},
                       Case{128, 3, true}, Case{256, 2, true}, Case{100, 2, false}}) {
    SCOPED_TRACE(c.head_dim);
    const int64_t tokens = 5, width = c.head_dim * c.heads;
    const auto x = RandomFloats(tokens * width, c.head_dim);
    const auto weight = RandomFloats(c.norm ? c.head_dim : 0, 9);
    const auto frequencies = RopeFrequencies({c.head_dim, 10000.0});
    const std::vector<int32_t> positions = {0, 1, 77, 2048, 130000};
    auto want = x;
    RopeArgs args{
        {want.data(), tokens, width, width}, c.head_dim, positions, frequencies, weight, 1e-6f};
    NormRopeRef(args);
    std::vector<float> first;
    ForEachTarget([&](const std::string& target) {
      auto got = x;
      args.x.data = got.data();
      NormRope(args);
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 4e-6) << target << i;
      if (first.empty()) first = got;
      EXPECT_EQ(got, first) << target;
    });
  }
}

TEST(NormRope, PositionZeroChangesNothing) {
  const auto x = RandomFloats(32, 4);
  auto y = x;
  const std::vector<int32_t> positions = {0};
  const auto frequencies = RopeFrequencies({16, 10000.0});
  NormRope({{y.data(), 1, 32, 32}, 16, positions, frequencies, {}, 0});
  EXPECT_EQ(x, y);
}

TEST(NormRope, LeavesColumnsBeyondTheViewAlone) {
  auto x = RandomFloats(2 * 24, 5);
  const auto before = x;
  const std::vector<int32_t> positions = {3, 4};
  const auto frequencies = RopeFrequencies({16, 10000.0});
  NormRope({{x.data(), 2, 16, 24}, 16, positions, frequencies, {}, 0});
  for (int row = 0; row < 2; ++row) {
    for (int i = 16; i < 24; ++i) EXPECT_EQ(x[row * 24 + i], before[row * 24 + i]);
    EXPECT_NE(x[row * 24], before[row * 24]);
  }
}

}  // namespace
}  // namespace conclave
