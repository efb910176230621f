#include "kernels/swiglu/swiglu.h"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

std::vector<float> Ramp(float from, float to, int count) {
  std::vector<float> values(count);
  for (int i = 0; i < count; ++i) {
    values[i] = from + (to - from) * static_cast<float>(i) / static_cast<float>(count - 1);
  }
  return values;
}

TEST(SwiGlu, WithinTwoMillionthsOfExp) {
  // 88 is where exp leaves the floats; beyond it silu is a denormal or zero.
  const std::vector<float> gate = Ramp(-87.0f, 100.0f, 1000003);
  const std::vector<float> up(gate.size(), 1.0f);
  ForEachTarget([&](const std::string& target) {
    std::vector<float> h(gate.size());
    SwiGlu(gate.data(), up.data(), gate.size(), h.data());
    double worst = 0;
    for (size_t i = 0; i < gate.size(); ++i) {
      const double x = gate[i];
      const double expected = x / (1.0 + std::exp(-x));
      if (expected != 0) worst = std::max(worst, std::abs(h[i] / expected - 1.0));
    }
    EXPECT_LT(worst, 2e-6) << target;
    EXPECT_GT(worst, 0.0) << target;
  });
}

TEST(SwiGlu, CloseToRefAndSameBitsOnEveryTargetAndCount) {
  std::vector<float> gate = Ramp(-95.0f, 95.0f, 4099);
  const std::vector<float> up = Ramp(3.0f, -2.0f, 4099);
  std::vector<float> expected(gate.size());
  SwiGluRef(gate.data(), up.data(), gate.size(), expected.data());
  std::vector<float> first;
  ForEachTarget([&](const std::string& target) {
    std::vector<float> h(gate.size());
    SwiGlu(gate.data(), up.data(), gate.size(), h.data());
    if (first.empty()) first = h;
    EXPECT_EQ(std::memcmp(h.data(), first.data(), h.size() * sizeof(float)), 0) << target;
    for (size_t i = 0; i < gate.size(); ++i) {
      ASSERT_NEAR(h[i], expected[i], 1e-35 + 2e-6 * std::abs(expected[i])) << gate[i];
    }
    for (const int count : {0, 1, 7, 8, 9, 15, 17, 100}) {
      std::vector<float> some(count + 1, 42.0f);
      SwiGlu(gate.data() + 11, up.data() + 11, count, some.data());
      EXPECT_EQ(std::memcmp(some.data(), first.data() + 11, count * sizeof(float)), 0);
      EXPECT_EQ(some[count], 42.0f);
    }
  });
}

TEST(SwiGlu, Extremes) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gate = {0.0f, -0.0f, 1e30f, -1e30f, kInfinity, -100.0f, NAN};
  const std::vector<float> up(gate.size(), 1.0f);
  ForEachTarget([&](const std::string& target) {
    std::vector<float> h(gate.size());
    SwiGlu(gate.data(), up.data(), gate.size(), h.data());
    EXPECT_EQ(h[0], 0.0f) << target;
    EXPECT_EQ(h[1], 0.0f);
    EXPECT_EQ(h[2], 1e30f);
    EXPECT_EQ(h[3], 0.0f);
    EXPECT_EQ(h[4], kInfinity);
    EXPECT_NEAR(h[5], 0.0f, 1e-30f);
    EXPECT_TRUE(std::isnan(h[6]));
  });
}

TEST(SwiGlu, InPlace) {
  std::vector<float> gate = Ramp(-3.0f, 3.0f, 21);
  const std::vector<float> up = Ramp(1.0f, 2.0f, 21);
  std::vector<float> h(21);
  SwiGlu(gate.data(), up.data(), 21, h.data());
  SwiGlu(gate.data(), up.data(), 21, gate.data());
  EXPECT_EQ(gate, h);
}

}  // namespace
}  // namespace conclave
