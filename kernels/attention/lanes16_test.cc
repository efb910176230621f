#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/tensor/simd_targets.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/attention/lanes16_test.cc"
#include "hwy/foreach_target.h"
#include "hwy/highway.h"
#include "kernels/attention/lanes16-inl.h"

HWY_BEFORE_NAMESPACE();
namespace conclave {
namespace HWY_NAMESPACE {

void ExpAll(const float* x, int count, float* y) {
  for (int i = 0; i + 16 <= count; i += 16) Store16(Exp16(Load16(x + i)), y + i);
}

void SumsOf(const float* x, float* sums) {
  namespace hn = hwy::HWY_NAMESPACE;
  hn::StoreU(Sum4(Load16(x), Load16(x + 16), Load16(x + 32), Load16(x + 48)),
             hn::FixedTag<float, 4>(), sums);
  sums[4] = Sum16(Load16(x + 48));
  sums[5] = MaxOf16(Max16(Load16(x), Load16(x + 16)));
}

}  // namespace HWY_NAMESPACE
}  // namespace conclave
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

HWY_EXPORT(ExpAll);
HWY_EXPORT(SumsOf);

TEST(FastExp, IsCloseToExpAndTheSameOnEveryTarget) {
  std::vector<float> x;
  for (int i = 0; i < 1 << 18; ++i) x.push_back(-87.0f * static_cast<float>(i) / (1 << 18));
  std::vector<float> first;
  ForEachTarget([&](const std::string& target) {
    std::vector<float> y(x.size());
    HWY_DYNAMIC_DISPATCH(ExpAll)(x.data(), static_cast<int>(x.size()), y.data());
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      worst = std::max(worst, std::abs(y[i] / std::exp(static_cast<double>(x[i])) - 1));
    }
    EXPECT_LT(worst, 3e-7) << target;
    if (first.empty()) first = y;
    EXPECT_EQ(std::memcmp(first.data(), y.data(), y.size() * sizeof(float)), 0) << target;
  });
}

TEST(FastExp, HoldsAtTheEnds) {
  const float inf = std::numeric_limits<float>::infinity();
  std::vector<float> x(16, 0.0f);
  x[1] = -inf;
  x[2] = std::numeric_limits<float>::lowest();
  x[3] = -87.5f;
  x[4] = std::numeric_limits<float>::quiet_NaN();
  x[5] = inf;
  x[6] = -0.0f;
  ForEachTarget([&](const std::string& target) {
    std::vector<float> y(16);
    HWY_DYNAMIC_DISPATCH(ExpAll)(x.data(), 16, y.data());
    EXPECT_EQ(y[0], 1.0f) << target;
    for (int i = 1; i <= 4; ++i) EXPECT_EQ(y[i], 0.0f) << target << i;
    EXPECT_TRUE(std::isfinite(y[5])) << target;
    EXPECT_EQ(y[6], 1.0f) << target;
  });
}

TEST(Lanes16, FoldsInTheStatedTree) {
  std::vector<float> x(64);
  for (int i = 0; i < 64; ++i) x[i] = std::sin(static_cast<float>(i)) * std::exp2(i % 7);
  ForEachTarget([&](const std::string& target) {
    float sums[6];
    HWY_DYNAMIC_DISPATCH(SumsOf)(x.data(), sums);
    for (int v = 0; v < 4; ++v) {
      float tree[16];
      std::copy_n(x.data() + 16 * v, 16, tree);
      for (int stride = 8; stride > 0; stride /= 2) {
        for (int i = 0; i < stride; ++i) tree[i] += tree[i + stride];
      }
      EXPECT_EQ(sums[v], tree[0]) << target;
    }
    EXPECT_EQ(sums[4], sums[3]);
    EXPECT_EQ(sums[5], *std::max_element(x.begin(), x.begin() + 32));
  });
}

}  // namespace
}  // namespace conclave
#endif
