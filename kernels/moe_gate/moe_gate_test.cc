#include "kernels/moe_gate/moe_gate.h"

#include <cmath>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "comm/base/rng.h"
#include "gtest/gtest.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

struct Routing {
  std::vector<int32_t> experts;
  std::vector<float> weights;
};

template <typename Gate>
Routing Route(Gate gate, const std::vector<float>& logits, int64_t tokens, int top_k,
              bool normalize) {
  const int64_t experts = static_cast<int64_t>(logits.size()) / tokens;
  Routing r{std::vector<int32_t>(tokens * top_k), std::vector<float>(tokens * top_k)};
  gate({{logits.data(), tokens, experts, experts},
        top_k,
        normalize,
        absl::MakeSpan(r.experts),
        absl::MakeSpan(r.weights)});
  return r;
}

std::vector<float> RandomLogits(int64_t count, uint64_t seed) {
  Rng rng(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(rng.Uniform() * 12 - 6);
  return values;
}

TEST(MoeGate, MatchesTheReferenceWithTheSameBitsOnEveryTarget) {
  for (int experts : {1, 8, 16, 60, 64, 128, 3001}) {
    for (int top_k : {1, 2, 8}) {
      if (top_k > experts) continue;
      for (bool normalize : {false, true}) {
        const auto logits = RandomLogits(7 * experts, experts + top_k);
        const Routing want = Route(MoeGateRef, logits, 7, top_k, normalize);
        Routing first;
        ForEachTarget([&](const std::string& target) {
          const Routing got = Route(MoeGate, logits, 7, top_k, normalize);
          EXPECT_EQ(got.experts, want.experts) << target;
          for (size_t i = 0; i < got.weights.size(); ++i) {
            ASSERT_NEAR(got.weights[i], want.weights[i], 1e-6) << target;
          }
          if (first.weights.empty()) first = got;
          EXPECT_EQ(got.weights, first.weights) << target;
        });
      }
    }
  }
}

TEST(MoeGate, TiesGoToTheLowerExpert) {
  const Routing r = Route(MoeGate, {1, 3, 2, 3, 2, 2}, 1, 4, true);
  EXPECT_EQ(r.experts, (std::vector<int32_t>{1, 3, 2, 4}));
  const Routing same = Route(MoeGate, std::vector<float>(12, 0.5f), 1, 3, true);
  EXPECT_EQ(same.experts, (std::vector<int32_t>{0, 1, 2}));
}

TEST(MoeGate, NormalizedWeightsSumToOne) {
  const Routing r = Route(MoeGate, RandomLogits(64, 3), 1, 8, true);
  double sum = 0;
  for (float w : r.weights) sum += w;
  EXPECT_NEAR(sum, 1, 1e-6);
}

TEST(MoeGate, ATokenIsRoutedTheSameInAnyBatch) {
  const auto logits = RandomLogits(5 * 60, 11);
  const Routing all = Route(MoeGate, logits, 5, 6, true);
  for (int t = 0; t < 5; ++t) {
    const Routing one =
        Route(MoeGate, {logits.begin() + t * 60, logits.begin() + (t + 1) * 60}, 1, 6, true);
    for (int k = 0; k < 6; ++k) {
      EXPECT_EQ(one.experts[k], all.experts[t * 6 + k]);
      EXPECT_EQ(one.weights[k], all.weights[t * 6 + k]);
    }
  }
}

TEST(MoeGate, NanLogitsStillGiveDistinctExperts) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const Routing some = Route(MoeGate, {nan, 1, nan, 2, -inf}, 1, 3, true);
  EXPECT_EQ(some.experts, (std::vector<int32_t>{3, 1, 0}));
  EXPECT_NEAR(some.weights[0] + some.weights[1], 1, 1e-6);
  const Routing none = Route(MoeGate, std::vector<float>(4, nan), 1, 2, true);
  EXPECT_EQ(none.experts, (std::vector<int32_t>{0, 1}));
}

}  // namespace
}  // namespace conclave
