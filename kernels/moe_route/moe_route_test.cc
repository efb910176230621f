#include "kernels/moe_route/moe_route.h"

#include <cmath>
#include <limits>
#include <vector>

#include "comm/device/cuda_device.h"
#include "gtest/gtest.h"
#include "kernels/add_norm/device_test_kit.h"
#include "kernels/moe_permute/moe_permute.h"
#include "kernels/moe_route/route_test_kit.h"
#include "kernels/moe_route/table_test_kit.h"

#if CONCLAVE_CUDA
namespace conclave {
namespace {

class MoeRouteTest : public testing::Test {
 protected:
  void SetUp() override {
    if (const auto status = CheckCudaDevice(0); !status.ok()) GTEST_SKIP() << status.message();
  }
};

// Logits of distinct values: no ties that rounding could decide.
void CheckGate(const RoutingShape& shape, std::vector<float> logits, int64_t stride,
               const std::vector<int32_t>& map) {
  SCOPED_TRACE(testing::Message() << shape.tokens << " tokens, " << shape.top_k << " of "
                                  << shape.experts << ", " << shape.slots << " slots");
  HostRouting want(shape);
  PrefillGateArgs args = {.tokens = shape.tokens,
                          .experts = shape.experts,
                          .logits = logits.data(),
                          .logits_stride = stride,
                          .choice = want.choice(),
                          .table = want.table(map.data())};
  PrefillGateRef(args);
  const OnDevice<float> device_logits(logits);
  const OnDevice<int32_t> device_map(map);
  DeviceRouting got(shape);
  const OnDevice<uint8_t> scratch(RouteScratchBytes(shape.tokens, args.table.slots));
  args.logits = device_logits.get();
  args.choice = got.choice();
  args.table = got.table(device_map.get());
  args.scratch = scratch.get();
  const absl::Status status = PrefillGate(args, nullptr, false);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(got.experts.Read(), want.experts);
  EXPECT_LT(RelativeError(got.gate_weights.Read(), want.gate_weights), 1e-6);
  ExpectSameTable(got, want);
}

TEST_F(MoeRouteTest, GateAndTableOfAnyShape) {
  Rng rng(1);
  for (const int experts : {4, 8, 16, 40, 64, 128, 200, 256, 512}) {
    for (const int tokens : {1, 7, 63, 64, 65, 300, 1024, 5000}) {
      const int top_k = 1 + static_cast<int>(rng.Below(std::min(experts, kRouteTopKMax)));
      if (int64_t{tokens} * experts > 700000) continue;
      const int slots = rng.Chance(1, 2) ? 0 : 1 + static_cast<int>(rng.Below(experts));
      const int64_t stride = experts + static_cast<int64_t>(rng.Below(5));
      CheckGate({tokens, experts, top_k, slots, rng.Chance(1, 2)},
                RandomValues(rng, tokens * stride, 6), stride, RandomSlotMap(rng, experts, slots));
    }
  }
  CheckGate({8192, 128, 8}, RandomValues(rng, 8192 * 128, 6), 128, {});
  CheckGate({8192, 32, 16, 512}, RandomValues(rng, 8192 * 32, 6), 32, RandomSlotMap(rng, 32, 512));
}

TEST_F(MoeRouteTest, TiesAndOddLogits) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  std::vector<float> same(70 * 33, 0.5f), ties;
  CheckGate({70, 33, 5}, same, 33, {});
  Rng rng(2);
  for (int i = 0; i < 100 * 128; ++i) ties.push_back(static_cast<float>(rng.Below(7)) - 3.0f);
  for (int i = 0; i < 100 * 128; i += 3) ties[i] = ties[i] == 0 ? -0.0f : ties[i];
  CheckGate({100, 128, 8}, ties, 128, {});
  CheckGate({1, 5, 3}, {nan, 1, nan, 2, -inf}, 5, {});
}

TEST_F(MoeRouteTest, RouterLogits) {
  for (const int hidden : {64, 72, 136, 2048}) {
    for (const int experts : {4, 8, 17, 64, 128, 200, 512}) {
      for (const int tokens : {1, 5, 64, 130}) {
        if (int64_t{hidden} * experts * tokens > 40000000) continue;
        Rng rng(hidden + experts + tokens);
        const RandomTiles router(rng, experts, hidden, 1);
        const int64_t x_stride = hidden + 8, stride = experts + experts % 2 + 2;
        const auto x = RandomBf16Values(rng, tokens * x_stride, 1);
        std::vector<float> want, got;
        for (int t = 0; t < tokens; ++t) {
          for (int e = 0; e < experts; ++e) {
            double sum = 0;
            for (int k = 0; k < hidden; ++k) {
              sum += double{Bf16ToFloat(x[t * x_stride + k])} * router.At(e, k);
            }
            want.push_back(static_cast<float>(sum));
          }
        }
        const OnDevice<uint16_t> tiles(router.tiles), rows(x);
        const OnDevice<float> logits(tokens * stride);
        const absl::Status status = RouterLogits({.tokens = tokens,
                                                  .x = rows.get(),
                                                  .x_stride = x_stride,
                                                  .router = router.On(tiles),
                                                  .logits = logits.get(),
                                                  .logits_stride = stride},
                                                 nullptr, false);
        ASSERT_TRUE(status.ok()) << status;
        const auto all = logits.Read();
        for (int t = 0; t < tokens; ++t) {
          got.insert(got.end(), all.begin() + t * stride, all.begin() + t * stride + experts);
          ASSERT_TRUE(std::isnan(all[t * stride + experts])) << "written past the experts";
        }
        ASSERT_LT(RelativeError(got, want), 1e-5) << hidden << " " << experts << " " << tokens;
      }
    }
  }
}

// Permuted rows, and the combine that brings them back, against the host's gather and combine.
TEST_F(MoeRouteTest, PermuteAndCombine) {
  for (const RoutingShape& shape : {RoutingShape{1, 4, 2}, RoutingShape{77, 16, 3, 7},
                                    RoutingShape{900, 128, 8}, RoutingShape{130, 64, 16, 40}}) {
    for (const int hidden : {8, 72, 2048}) {
      Rng rng(shape.tokens + hidden);
      const auto map = RandomSlotMap(rng, shape.experts, shape.slots);
      const auto logits = RandomValues(rng, int64_t{shape.tokens} * shape.experts, 6);
      HostRouting host(shape);
      PrefillGateRef({.tokens = shape.tokens,
                      .experts = shape.experts,
                      .logits = logits.data(),
                      .logits_stride = shape.experts,
                      .choice = host.choice(),
                      .table = host.table(map.data())});
      const int64_t entries = int64_t{shape.tokens} * shape.top_k;
      const int64_t size = int64_t{shape.tokens} * hidden;
      const int served = host.slot_first.back();
      const auto x = RandomBf16Values(rng, size, 1);
      const OnDevice<uint16_t> rows(x), permuted(entries * hidden);
      const OnDevice<int32_t> row_of_entry(host.row_of_entry);
      absl::Status status = PermuteRows({.tokens = shape.tokens,
                                         .hidden = hidden,
                                         .top_k = shape.top_k,
                                         .x = rows.get(),
                                         .row_of_entry = row_of_entry.get(),
                                         .x_perm = permuted.get()},
                                        nullptr, false);
      ASSERT_TRUE(status.ok()) << status;
      const auto got = permuted.Read();
      for (int i = 0; i < served; ++i) {
        const int64_t from = int64_t{host.order[i] / shape.top_k} * hidden;
        for (int k = 0; k < hidden; ++k) ASSERT_EQ(got[i * hidden + k], x[from + k]) << i;
      }
      for (size_t i = size_t{1} * served * hidden; i < got.size(); ++i) ASSERT_EQ(got[i], 0xffff);

      const auto residual = RandomValues(rng, size, 1);
      std::vector<float> want = residual, parts = Widen(got);
      std::vector<int32_t> part_row = host.row_of_entry;
      std::vector<float> weights = host.gate_weights;
      for (int64_t i = 0; i < entries; ++i) {  // the host's combine has every row
        if (part_row[i] < 0) part_row[i] = 0, weights[i] = 0;
      }
      CombineRef({.parts = {parts.data(), std::max(served, 1), hidden, hidden},
                  .part_row = part_row,
                  .weights = weights,
                  .top_k = shape.top_k,
                  .out = {want.data(), shape.tokens, hidden, hidden}});
      const OnDevice<float> stream(residual), gate_weights(host.gate_weights);
      AddNormArgs combine = {.tokens = shape.tokens,
                             .hidden = hidden,
                             .residual_in = stream.get(),
                             .residual_out = stream.get()};
      combine.pending = {.kind = PendingKind::kRowsBf16,
                         .data = permuted.get(),
                         .count = shape.top_k,
                         .row_stride = hidden,
                         .gate_weights = gate_weights.get(),
                         .row_of_entry = row_of_entry.get()};
      status = AddNorm(combine, nullptr, false);
      ASSERT_TRUE(status.ok()) << status;
      EXPECT_LT(RelativeError(stream.Read(), want), 3e-7);
    }
  }
}

TEST_F(MoeRouteTest, ShapesThatDoNotFit) {
  PrefillGateArgs args = {.tokens = 1, .experts = 600, .logits_stride = 600};
  args.choice.top_k = 2;
  args.table.slots = 512;
  EXPECT_EQ(PrefillGate(args, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
  const RouterLogitsArgs router = {
      .tokens = 1, .x_stride = 64, .router = {.outputs = 8, .inputs = 60}, .logits_stride = 8};
  EXPECT_EQ(RouterLogits(router, nullptr, false).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace conclave
#endif
