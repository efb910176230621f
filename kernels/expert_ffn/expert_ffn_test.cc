#include "kernels/expert_ffn/expert_ffn.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "comm/base/reduction.h"
#include "gtest/gtest.h"
#include "kernels/expert_ffn/ffn_test_kit.h"
#include "kernels/gemm/matrix_test_kit.h"
#include "kernels/tensor/target_test_kit.h"

namespace conclave {
namespace {

class Experts {
 public:
  Experts(const FfnShape& shape, int slots) {
    for (int s = 0; s < slots; ++s) weights_.push_back(RandomFfn(shape, 100 * s + 1));
    for (const FfnWeights& w : weights_) pointers_.push_back(&w);
  }
  absl::Span<const FfnWeights* const> slots() const { return pointers_; }
  const FfnWeights& operator[](int s) const { return weights_[s]; }

 private:
  std::vector<FfnWeights> weights_;
  std::vector<const FfnWeights*> pointers_;
};

OwnedRows RunFfn(const Experts& experts, const OwnedRows& x, const Routing& routing, int threads) {
  OwnedRows out(routing.row_of_entry.size(), x.view().cols);
  ComputePool pool(threads);
  ExpertFfn({x.view(), routing.row_of_entry, &routing.table, experts.slots(), out.view()}, pool);
  return out;
}

TEST(ExpertFfn, CloseToRef) {
  for (const Dtype dtype : {Dtype::kF32, Dtype::kF16, Dtype::kBf16}) {
    for (const int64_t ffn : {5, 16, 40, 96}) {
      const Experts experts({.hidden = 72, .ffn = ffn, .dtype = dtype}, 6);
      const OwnedRows x = OwnedRows::Random(20, 72, 1);
      const Routing routing = RandomRouting(20, 3, 6, 2);
      OwnedRows expected(60, 72);
      ExpertFfnRef(
          {x.view(), routing.row_of_entry, &routing.table, experts.slots(), expected.view()});
      ForEachTarget([&](const std::string& target) {
        const OwnedRows out = RunFfn(experts, x, routing, 2);
        for (int64_t e = 0; e < 60; ++e) {
          double norm = 0;
          for (int64_t n = 0; n < 72; ++n)
            norm = std::max<double>(norm, std::abs(expected.row(e)[n]));
          for (int64_t n = 0; n < 72; ++n) {
            ASSERT_NEAR(out.row(e)[n], expected.row(e)[n], 1e-5 * norm) << target;
          }
        }
      });
    }
  }
}

TEST(ExpertFfn, SameBitsForEveryTargetAndThreadCount) {
  const Experts experts({.hidden = 256, .ffn = 112}, 5);
  const OwnedRows x = OwnedRows::Random(150, 256, 3);
  const Routing routing = RandomRouting(150, 2, 5, 4);
  const OwnedRows expected = RunFfn(experts, x, routing, 1);
  ForEachTarget([&](const std::string& target) {
    for (const int threads : {1, 2, 3, 8}) {
      EXPECT_TRUE(RunFfn(experts, x, routing, threads).BitEqual(expected)) << target << threads;
    }
  });
}

TEST(ExpertFfn, EntryDoesNotDependOnItsBatch) {
  const Experts experts({.hidden = 128, .ffn = 48}, 4);
  const OwnedRows x = OwnedRows::Random(30, 128, 5);
  const Routing all = RandomRouting(30, 2, 4, 6);
  const OwnedRows expected = RunFfn(experts, x, all, 2);
  for (const size_t count : {1, 2, 5, 13}) {
    for (size_t first = 0; first + count <= all.row_of_entry.size(); first += count) {
      Routing some;
      some.row_of_entry.assign(&all.row_of_entry[first], &all.row_of_entry[first] + count);
      some.slot_of_entry.assign(&all.slot_of_entry[first], &all.slot_of_entry[first] + count);
      FillTable(some, 4);
      const OwnedRows out = RunFfn(experts, x, some, 2);
      for (size_t e = 0; e < count; ++e) {
        for (int64_t n = 0; n < 128; ++n) {
          ASSERT_EQ(out.row(e)[n], expected.row(first + e)[n]) << first << " " << e;
        }
      }
    }
  }
}

TEST(ExpertFfn, SlicesOfAnExpertAddUpToTheWhole) {
  ComputePool pool(2);
  for (const int64_t ffn : {16, 40, 64, 200}) {
    const FfnShape shape{.hidden = 64, .ffn = ffn};
    const FfnWeights whole = RandomFfn(shape, 7);
    const OwnedRows x = OwnedRows::Random(9, 64, 8);
    OwnedRows expected(9, 64);
    DenseFfn(x.view(), whole, expected.view(), pool);
    ForEachTarget([&](const std::string& target) {
      for (const int slices : {2, 4, 8}) {
        std::vector<OwnedRows> parts;
        for (int s = 0; s < slices; ++s) {
          const FfnWeights part = RandomFfnSlice(shape, 7, s, slices);
          parts.emplace_back(9, 64);
          DenseFfn(x.view(), part, parts.back().view(), pool);
        }
        for (int64_t i = 0; i < 9 * 64; ++i) {
          float values[8];
          for (int s = 0; s < slices; ++s) values[s] = parts[s].row(0)[i];
          ASSERT_EQ(TreeSum(values, slices), expected.row(0)[i])
              << target << " ffn " << ffn << " slices " << slices;
        }
      }
    });
  }
}

TEST(ExpertFfn, ReadsAndCountsOnlyTouchedSlots) {
  Experts experts({.hidden = 64, .ffn = 32}, 3);
  std::vector<const FfnWeights*> slots(experts.slots().begin(), experts.slots().end());
  slots[1] = nullptr;  // not resident, and not asked for
  Routing routing;
  routing.row_of_entry = {0, 1, 0};
  routing.slot_of_entry = {2, 2, 0};
  FillTable(routing, 3);
  const OwnedRows x = OwnedRows::Random(2, 64, 9);
  OwnedRows out(3, 64), expected(3, 64);
  ComputePool pool(2);
  const int64_t bytes =
      ExpertFfn({x.view(), routing.row_of_entry, &routing.table, slots, out.view()}, pool);
  EXPECT_EQ(bytes, experts[0].bytes() + experts[2].bytes());
  DenseFfn({x.row(0), 2, 64, 64}, experts[2], {expected.row(0), 2, 64, 64}, pool);
  DenseFfn({x.row(0), 1, 64, 64}, experts[0], {expected.row(2), 1, 64, 64}, pool);
  EXPECT_TRUE(out.BitEqual(expected));
}

TEST(ExpertFfn, NoEntries) {
  const Experts experts({.hidden = 64, .ffn = 32}, 2);
  Routing routing;
  FillTable(routing, 2);
  const OwnedRows x(0, 64);
  OwnedRows out(0, 64);
  ComputePool pool(2);
  EXPECT_EQ(ExpertFfn({x.view(), {}, &routing.table, experts.slots(), out.view()}, pool), 0);
  EXPECT_EQ(DenseFfn(x.view(), experts[0], out.view(), pool), 0);
}

TEST(ExpertFfn, GateAndUpRowsInterleaveByPanel) {
  FfnWeights weights;
  weights.ffn = 20;
  weights.gate_up = PackedMatrix(64, 1, Dtype::kF32, 8);
  std::vector<float> gate(20), up(20);
  for (int n = 0; n < 20; ++n) gate[n] = static_cast<float>(n), up[n] = static_cast<float>(100 + n);
  SetGateRows(weights, 0, 5, gate.data(), 1);
  SetGateRows(weights, 5, 15, gate.data() + 5, 1);
  SetUpRows(weights, 0, 20, up.data(), 1);
  for (int n = 0; n < 20; ++n) {
    EXPECT_EQ(weights.gate_up.At(n / 16 * 32 + n % 16, 0), gate[n]);
    EXPECT_EQ(weights.gate_up.At(n / 16 * 32 + 16 + n % 16, 0), up[n]);
  }
  EXPECT_DEATH(SetUpRows(weights, 10, 11, up.data(), 1), "ffn of 20");
}

}  // namespace
}  // namespace conclave
